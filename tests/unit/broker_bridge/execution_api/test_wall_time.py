"""Moments by a worker's clock become moments by the centre's, and nothing else of a call changes."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.execution_api.client import ApiResult
from edge_mqtt.broker_bridge.execution_api.wall_time import body_in_centre_time, result_in_worker_time
from tests.support.scenario_relay import RUN, STATE, call

MOMENT = "2026-01-01T12:00:00Z"
LATER = "2026-01-01T12:02:00+00:00"


def corrected(method: str, target: str, body: Any, offset_s: float = 120.0) -> Any:
    request = call(method, target, body=json.dumps(body).encode(), clock_offset_s=offset_s)
    return json.loads(body_in_centre_time(request))


@pytest.mark.parametrize(
    ("method", "target", "body", "expected"),
    [
        ("PATCH", RUN, {"start_date": MOMENT, "pid": 7}, {"start_date": LATER, "pid": 7}),
        ("PATCH", STATE, {"state": "failed", "end_date": MOMENT}, {"state": "failed", "end_date": LATER}),
        (
            "PATCH",
            STATE,
            {"end_date": MOMENT, "reschedule_date": MOMENT},
            {"end_date": LATER, "reschedule_date": LATER},
        ),
        ("PUT", "store/ti/7/a%2Fk", {"value": MOMENT, "expires_at": MOMENT}, {"value": MOMENT, "expires_at": LATER}),
        ("PUT", "store/ti/7/k", {"value": 1, "expires_at": None}, {"value": 1, "expires_at": None}),
        # What a Dag's author has computed.
        ("POST", "dag-runs/d/r", {"logical_date": MOMENT, "run_after": MOMENT}, None),
        ("POST", "xcoms/d/r/t/k", {"end_date": MOMENT}, None),
        ("PATCH", STATE, {"state": "deferred", "trigger_kwargs": {"end_date": MOMENT}}, None),
        # What is no moment stays as it is, for Airflow to refuse.
        ("PATCH", STATE, {"end_date": "soon", "reschedule_date": 7}, None),
        ("PATCH", STATE, {"end_date": "9999-12-31T23:59:59Z"}, None),
    ],
)
def test_moments_of_the_task_s_machine_are_corrected(method: str, target: str, body: Any, expected: Any) -> None:
    assert corrected(method, target, body) == (body if expected is None else expected)


@pytest.mark.parametrize("body", [b"", b"no json", b"\xff", b'{"end_date": "2026-01-01T12:00:00Z" }'])
def test_call_from_a_machine_whose_clock_is_right_is_passed_on_byte_for_byte(body: bytes) -> None:
    assert body_in_centre_time(call("PATCH", STATE, body=body)) == body


@pytest.mark.parametrize("body", [b"", b"no json", b"\xff"])
def test_body_that_is_no_document_stays_as_it_is(body: bytes) -> None:
    assert body_in_centre_time(call("PATCH", STATE, body=body, clock_offset_s=9.0)) == body


@given(offset_s=st.floats(min_value=-1e8, max_value=1e8), at=st.integers(946_684_800, 4_102_444_800))
def test_correction_is_the_offset(offset_s: float, at: int) -> None:
    moment = datetime.fromtimestamp(at, UTC)
    body = corrected("PATCH", STATE, {"end_date": moment.isoformat()}, offset_s)
    assert datetime.fromisoformat(body["end_date"]) == moment + timedelta(seconds=offset_s)


@pytest.mark.parametrize(
    ("method", "target", "status", "body", "expected"),
    [
        ("GET", "task-reschedules/7/start_date?try_number=1", 200, LATER, "2026-01-01T12:00:00+00:00"),
        ("GET", "task-reschedules/7/start_date", 200, None, None),
        (
            "PATCH",
            RUN,
            200,
            {"start_date": LATER, "dag_run": {}},
            {"start_date": "2026-01-01T12:00:00+00:00", "dag_run": {}},
        ),
        ("PATCH", RUN, 409, {"start_date": LATER}, {"start_date": LATER}),
        ("GET", "variables/x", 200, LATER, LATER),
    ],
)
def test_answers_that_a_task_compares_with_its_clock_are_in_its_time(
    method: str, target: str, status: int, body: Any, expected: Any
) -> None:
    result = ApiResult(status=status, headers={"a": "b"}, body=json.dumps(body).encode())
    shifted = result_in_worker_time(call(method, target, clock_offset_s=120.0), result)
    assert (shifted.status, shifted.headers, json.loads(shifted.body)) == (status, {"a": "b"}, expected)
    assert result_in_worker_time(call(method, target), result) is result
