"""Odd messages to the real bridge, by clients with certificates: each is one line, and everybody is served on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.protocol.codec import encode
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    ErrorReply,
    JobAccepted,
    JobFinished,
    JobSpec,
    Message,
    Outcome,
    Submit,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role
from tests.support.bridge_program import Site, free_port, wait_until_healthy
from tests.support.free_client import FreeClient

TOPICS = Topics()
ANN, LAB = Identity(Role.EXECUTOR, "ann"), Identity(Role.WORKER, "lab-3")
ANNS, LABS = ExecutorName(ANN.name), WorkerName(LAB.name)
HALF = "\ud800"
PRESENCE: dict[str, Any] = {
    "kind": "presence",
    "incarnation": "i",
    "connection": 1,
    "state": "online",
    "queues": ["q"],
}
JOB = {"job_id": "j", "fence": 1}
RUN = {**JOB, "kind": "api_request", "request_id": "r", "method": "PATCH", "target": "task-instances/x/run"}


def packet(message: dict[str, Any], body: bytes = b"") -> bytes:
    line = json.dumps({"v": 1, **message}).encode()
    return line + b"\n" + body if body else line


def deep(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(levels):
        document = {"x": document}
    return document


def job(job_id: str, **facts: Any) -> dict[str, Any]:
    spec = {"job_id": job_id, "type": "ExecuteCallback", "queue": "q", **facts}
    return {"kind": "submit", "token": "t", "job": spec}


BY_WORKER = [
    (TOPICS.presence(LABS), packet({**PRESENCE, "home": HALF})),
    (TOPICS.presence(LABS), packet({**PRESENCE, "jobs": [{"job_id": HALF, "fence": 1, "state": "running"}]})),
    (TOPICS.presence(LABS), packet({**PRESENCE, "connection": 2**64})),
    (TOPICS.presence(LABS), packet({**PRESENCE, "concurrency": -1})),
    (TOPICS.presence(LABS), json.dumps({"v": 1, **PRESENCE}).encode("utf-16")),
    (TOPICS.results(LABS), packet({**JOB, "kind": "finished", "error": HALF})),
    (TOPICS.results(LABS), packet({**JOB, "kind": "finished", "log_size": 2**63})),
    (TOPICS.results(LABS), packet({**JOB, "kind": "finished", "fence": 10**400})),
    (TOPICS.results(LABS), packet({"kind": "finished", "job_id": "a\0b", "fence": 1})),
    (TOPICS.results(LABS), packet({**JOB, "kind": "finished", "started_at": float("nan")})),
    (TOPICS.acks(LABS), packet({**JOB, "kind": "assignment_rejected", "reason": HALF})),
    (TOPICS.rpc_request(LABS), packet({**RUN, "request_id": "ü"}, b"{}")),
    (TOPICS.results(LABS), packet({**JOB, "kind": "finished", "v": 0})),
]
BY_EXECUTOR = [
    (TOPICS.admin_request(ANN), packet({"kind": "cancel_job", "job_id": HALF})),
    (TOPICS.admin_request(ANN), packet({"kind": "adopt_request", "request_id": "r", "job_ids": ["a\0b"]})),
    (TOPICS.submit("q", ANNS), packet({**job("halves"), "v": 0})),
    (TOPICS.submit("q", ANNS), packet(job("halves", dag_id=HALF))),
]
#: Jobs that are malformed, but for their ids, and what their executor is told.
FAIL: list[tuple[str, dict[str, Any], str]] = [
    ("deep", {"workload": deep(300)}, "nested more than 100 levels deep"),
    ("large", {"priority": 2**64}, "priority"),
    ("slots", {"slots": 2**40}, "slots"),
    ("nul", {"dag_id": "a\0b"}, "dag_id"),
    ("long", {"run_id": "r" * 501}, "run_id"),
]


def answers(client: FreeClient, count: int) -> list[Message | None]:
    return [message for _, message in client.heard(count)]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_no_odd_message_ends_the_bridge_and_each_is_answered(site: Site) -> None:
    port, health_port = free_port(), free_port()
    bridge = site.start(port=port, health_port=health_port)
    wait_until_healthy(health_port)
    worker = FreeClient(site, port, LAB, TOPICS.control(LABS), TOPICS.rpc_response(LABS))
    executor = FreeClient(site, port, ANN, TOPICS.events(ANNS), TOPICS.admin_response(ANN))
    for topic, odd in BY_WORKER:
        worker.say(topic, odd)
    told = answers(worker, len(BY_WORKER))
    assert all(isinstance(message, ErrorReply) for message in told), told
    for topic, odd in BY_EXECUTOR:
        executor.say(topic, odd)
    told = answers(executor, len(BY_EXECUTOR))
    assert all(isinstance(message, ErrorReply) for message in told), told
    assert told[2] == ErrorReply(
        error="the sender speaks protocol version 0, the bridge speaks 1: upgrade the sender"
    )

    for job_id, facts, _ in FAIL:
        executor.say(TOPICS.submit("q", ANNS), packet(job(job_id, **facts)))
    heard = answers(executor, len(BY_EXECUTOR) + 2 * len(FAIL))[len(BY_EXECUTOR) :]
    ends = {message.job_id: message for message in heard if isinstance(message, JobFinished)}
    assert sorted(ends) == sorted(job_id for job_id, _, _ in FAIL)
    for job_id, _, reason in FAIL:
        assert ends[JobId(job_id)].outcome is Outcome.FAILED
        assert reason in ends[JobId(job_id)].detail

    fine = JobSpec(job_id=JobId("fine"), type=WorkloadType.CALLBACK, queue="q", workload={"callback": {"x": 1}})
    executor.say(TOPICS.submit("q", ANNS), encode(Submit(job=fine, token="t"))[0])
    before = len(BY_EXECUTOR) + 2 * len(FAIL)
    assert answers(executor, before + 1)[before:] == [JobAccepted(job_id=JobId("fine"))]
    wait_until_healthy(health_port)
    worker.stop()
    executor.stop()
    bridge.terminate()
    _, log = bridge.communicate(timeout=60)
    assert bridge.returncode == 0
    assert "Traceback" not in log
    assert log.count("packet dropped: ") == len(BY_WORKER) + len(BY_EXECUTOR) + len(FAIL)
