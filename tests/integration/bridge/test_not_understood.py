"""What the real bridge does with packets that it does not understand: it says so, counts them, and serves on."""

from __future__ import annotations

import json
from pathlib import Path

from edge_mqtt.broker_bridge.protocol.codec import encode
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ErrorReply, JobAccepted, JobSpec, Submit, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role
from tests.support.bridge_program import Site, free_port, wait_until_healthy
from tests.support.free_client import FreeClient

TOPICS = Topics()
ANN, LAB = Identity(Role.EXECUTOR, "ann"), Identity(Role.WORKER, "lab.3")
ANNS, LABS = ExecutorName(ANN.name), WorkerName(LAB.name)
UNKNOWN = b'{"v":1,"kind":"sing"}'


def submission() -> bytes:
    job = JobSpec(job_id=JobId("j"), type=WorkloadType.CALLBACK, queue="q", workload={"callback": {"x": 1}})
    return encode(Submit(job=job, token="t"))[0]


def test_both_a_worker_and_an_executor_are_told_what_was_not_understood_and_are_served_on(tmp_path: Path) -> None:
    site, port, health_port = Site(tmp_path), free_port(), free_port()
    bridge = site.start(port=port, health_port=health_port)
    wait_until_healthy(health_port)
    worker = FreeClient(site, port, LAB, TOPICS.control(LABS))
    executor = FreeClient(site, port, ANN, TOPICS.events(ANNS), TOPICS.admin_response(ANN))
    worker.say(TOPICS.results(LABS), UNKNOWN)
    worker.say(TOPICS.results(LABS), b'{"kind":"finished"}')
    worker.say(TOPICS.results(LABS), submission())
    worker.say(TOPICS.acks(LABS), encode(ErrorReply(error="what was that?"))[0])
    assert [message for _, message in worker.heard(3)] == [
        ErrorReply(error="unknown message kind 'sing': one of the two programs is older than the other"),
        ErrorReply(error="malformed finished message: job_id: Field required"),
        ErrorReply(error="a submit message has no business on edge/v1/results/lab%2E3"),
    ]
    executor.say(TOPICS.submit("other", ANNS), submission())
    executor.say(TOPICS.admin_request(ANN), json.dumps({"v": 7, "kind": "executor_hello"}).encode())
    executor.say(TOPICS.submit("q", ANNS), submission())
    assert executor.heard(3) == [
        (
            TOPICS.admin_response(ANN),
            ErrorReply(error="a submit message has no business on edge/v1/jobs/other/from/ann"),
        ),
        (
            TOPICS.admin_response(ANN),
            ErrorReply(error="the sender speaks protocol version 7, the bridge speaks 1: upgrade the bridge"),
        ),
        (TOPICS.events(ANNS), JobAccepted(job_id=JobId("j"))),
    ]
    worker.stop()
    executor.stop()
    bridge.terminate()
    _, log = bridge.communicate(timeout=60)
    assert "worker:lab.3 did not understand a message of this bridge: what was that?" in log
    assert log.count("packet dropped: ") == 5
