"""Who submits a job, and who runs it, is said by the certificates: the real bridge, and clients that could lie."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.codec import encode, write
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    Assign,
    JobAccepted,
    JobSpec,
    Presence,
    Submit,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role
from tests.support.bridge_program import Site, free_port, wait_until_healthy
from tests.support.free_client import FreeClient

TOPICS = Topics()
ANN, BOB = Identity(Role.EXECUTOR, "ann"), Identity(Role.EXECUTOR, "bob.2")
LAB = Identity(Role.WORKER, "lab.3")
#: What MQTT, a broker or a shell could take for something else.
QUEUE = "press/1 + größe #2.%2F"
#: Of both executors, and of the worker.
Clients = tuple[FreeClient, FreeClient, FreeClient]


@pytest.fixture
def clients(tmp_path: Path) -> Iterator[Clients]:
    site, port, health_port = Site(tmp_path), free_port(), free_port()
    bridge = site.start(port=port, health_port=health_port)
    try:
        wait_until_healthy(health_port)
        ann, bob = (FreeClient(site, port, one, TOPICS.events(ExecutorName(one.name))) for one in (ANN, BOB))
        worker = FreeClient(site, port, LAB, TOPICS.assignments(WorkerName(LAB.name)))
        yield ann, bob, worker
        for client in (ann, bob, worker):
            client.stop()
    finally:
        bridge.terminate()
        bridge.communicate(timeout=60)


def submit(job_id: str) -> Submit:
    job = JobSpec(job_id=JobId(job_id), type=WorkloadType.CALLBACK, queue=QUEUE, workload={"callback": {"x": 1}})
    return Submit(job=job, token="t")


def test_a_job_is_its_certificates_and_what_others_submit_in_its_name_is_dropped(
    clients: Clients,
) -> None:
    ann, bob, _ = clients
    ann.say(TOPICS.submit(QUEUE, ExecutorName(BOB.name)), encode(submit("forged"))[0])
    # As an older program would claim it, and one that hopes that a field is believed.
    header = json.loads(write(submit("claimed"))) | {"executor": BOB.name}
    ann.say(TOPICS.submit(QUEUE, ExecutorName(ANN.name)), json.dumps(header).encode())
    bob.say(TOPICS.submit(QUEUE, ExecutorName(BOB.name)), encode(submit("bob's"))[0])
    ((topic, accepted),) = ann.heard(1)
    assert (topic, accepted) == ("edge/v1/events/ann", JobAccepted(job_id=JobId("claimed")))
    ((topic, accepted),) = bob.heard(1)
    assert (topic, accepted) == ("edge/v1/events/bob%2E2", JobAccepted(job_id=JobId("bob's")))


def test_a_queue_and_a_worker_of_any_spelling_find_each_other(
    clients: Clients,
) -> None:
    ann, _, lab = clients
    hello = Presence(incarnation="i", connection=1, state=WorkerState.ONLINE, queues=(QUEUE,), concurrency=1)
    lab.say(TOPICS.presence(WorkerName(LAB.name)), encode(hello)[0])
    ann.say(TOPICS.submit(QUEUE, ExecutorName(ANN.name)), encode(submit("j"))[0])
    ((topic, assignment),) = lab.heard(1)
    assert isinstance(assignment, Assign)
    assert assignment.job.queue == QUEUE
    assert TOPICS.parse(topic) == ("jobs", QUEUE, "to", LAB.name)
