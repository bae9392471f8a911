"""Odd messages from a bridge: each is one line and counted, and the worker works on."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import ErrorReply, Presence, WorkerState
from edge_mqtt.worker.bridge.results import Results
from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.worker_lab import NAME, TOPICS, task_job

JOB = {"job_id": "j", "fence": 1}


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


def deep(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(levels):
        document = {"x": document}
    return document


def assignment(**facts: Any) -> dict[str, Any]:
    job = {"job_id": "odd", "type": "ExecuteTask", "queue": "default", **facts}
    return {"kind": "assign", "fence": 1, "lease_s": 900, "job": job}


MALFORMED = [
    {"kind": "cancel", **JOB, "fence": 2**64, "reason": ""},
    {"kind": "log_ack", **JOB, "offset": -1},
    {"kind": "welcome", "incarnation": "i", "connection": 1, "kill_grace_s": -1, "presence_interval_s": 1},
    {"kind": "welcome", "incarnation": "i", "connection": 1, "kill_grace_s": 1, "presence_interval_s": float("nan")},
    {"kind": "presence_ack", "incarnation": "", "connection": 1, "sequence": 0},
    {"kind": "result_ack", "job_id": "a\0b", "fence": 1},
    assignment(workload=deep(300)),
    assignment(slots=2**31),
]
#: Well-formed, and the worker has a bug that it meets.
BUGGY = {"kind": "result_ack", "job_id": "buggy", "fence": 1}


def test_odd_messages_are_told_and_counted_and_the_worker_works_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Results.record_ack

    async def record_ack(self: Results, job_id: JobId, fence: Fence) -> None:
        if job_id == "buggy":
            raise KeyError("a bug of ours")
        await whole(self, job_id, fence)

    monkeypatch.setattr(Results, "record_ack", record_ack)

    async def scenario(lab: Lab) -> None:
        bridge = lab.bridge
        await bridge.until(lambda: bridge.of(Presence, lambda m: m.state is WorkerState.ONLINE))
        for odd in [*MALFORMED, BUGGY]:
            topic = TOPICS.control(NAME) if odd["kind"] != "assign" else TOPICS.assignment("default", NAME)
            bridge.broker.publish(topic, json.dumps({"v": 1, **odd}).encode(), qos=1, retain=False)
        await bridge.until(lambda: len(bridge.of(ErrorReply)) >= len(MALFORMED) + 1)
        job_id = bridge.assign(task_job("hello"))
        assert (await bridge.result(job_id)).exit_code == 0

    with caplog.at_level(logging.WARNING):
        assert play(tmp_path, scenario) is ExitCode.DONE
    actions = [vars(record).get("action") for record in caplog.records]
    assert actions.count("packet_dropped") == len(MALFORMED)
    assert actions.count("message_failed") == 1
    assert "Traceback" not in caplog.text
