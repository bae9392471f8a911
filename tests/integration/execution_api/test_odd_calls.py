"""Odd calls of workers, odd answers of Airflow, and a bridge that fails at one: nobody waits for ever."""

from __future__ import annotations

import asyncio
import json

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.execution_api.relay import parse_starter, reason_of
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from tests.support.scenario_relay import RUN, WORKER, Held, api, call, job


@pytest.mark.parametrize(
    ("body", "starter"),
    [
        (b'{"hostname": "edge-1", "pid": 42}', "edge-1:42"),
        (b'{"hostname": "a\\u0000b\\ud800", "pid": 42}', "a\ufffdb\ufffd:42"),
        (json.dumps({"hostname": "h" * 5000, "pid": 42}).encode(), "h" * 299 + "\u2026:42"),
        (b'{"hostname": ["h"], "pid": 42}', "unknown:0"),
        (b'{"hostname": "h", "pid": -1}', "unknown:0"),
        (b'{"hostname": "h", "pid": 1e999}', "unknown:0"),
        (json.dumps({"hostname": "h", "pid": 2**70}).encode(), "unknown:0"),
        (json.dumps({"hostname": "h", "pid": 42}).encode("utf-16"), "unknown:0"),
        (b"[" * 100_000, "unknown:0"),
        (b"", "unknown:0"),
    ],
)
def test_whoever_starts_a_task_is_noted_as_what_can_be_stored(body: bytes, starter: str) -> None:
    async def test() -> None:
        held = Held(job(CentralJobState.ASSIGNED))
        async with api(held) as (relay, _):
            response = await relay.answer(WORKER, call("PATCH", RUN, body=body))
            assert response is not None
            assert response.status == 200
            assert held.starts == [starter]
            assert parse_starter(starter) != ("unknown", 0)

    asyncio.run(asyncio.wait_for(test(), 20))


def test_a_call_that_the_bridge_fails_at_is_answered_with_an_error(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Held):
        async def ask_start(self, worker: WorkerName, job_id: JobId, fence: Fence, starter: str) -> str | None:
            raise RuntimeError("a bug of ours")

    async def test() -> None:
        async with api(Broken(job(CentralJobState.ASSIGNED))) as (relay, server):
            response = await relay.answer(WORKER, call("PATCH", RUN, body=b"{}"))
            assert response is not None
            assert response.status == 500
            assert json.loads(response.body)["detail"]["reason"] == "bridge_failed"
            assert server.seen == []

    asyncio.run(asyncio.wait_for(test(), 20))
    assert "a call failed: RuntimeError at test_odd_calls.py" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"detail": {"reason": "a\\u0000", "message": "b\\ud800"}}', "a\ufffd: b\ufffd"),
        (b"[" * 100_000, "Airflow does not want the task to run any more"),
        (
            '{"detail": {"reason": "a", "message": "b"}}'.encode("utf-16"),
            "Airflow does not want the task to run any more",
        ),
    ],
)
def test_airflow_s_reason_is_one_line_that_can_be_stored(body: bytes, reason: str) -> None:
    assert reason_of(body) == reason
