"""What is known of a call whose answer was lost, and what follows from it."""

from __future__ import annotations

import json

import pytest

from edge_mqtt.broker_bridge.execution_api.client import ApiResult
from edge_mqtt.broker_bridge.execution_api.doubt import (
    ABSENT,
    UNKNOWN,
    ForwardedCall,
    describe_run,
    means_success,
    was_cleared,
    was_triggered,
)
from tests.support.scenario_relay import STATE, call

RUN = {
    "run_type": "operator_triggered",
    "conf": {"a": 1},
    "logical_date": "2026-01-01T12:00:00.000001Z",
    "run_after": "2026-01-01T12:00:05Z",
    "partition_key": None,
    "clear_number": 0,
}
ASKED = {"conf": {"a": 1}, "logical_date": "2026-01-01T13:00:00.000001+01:00"}


def answer(status: int, body: object = None) -> ApiResult:
    return ApiResult(status=status, headers={}, body=b"" if body is None else json.dumps(body).encode())


@pytest.mark.parametrize("call_", [ForwardedCall(request_id="0199-ab c", before=ABSENT), None])
def test_what_is_stored_of_a_call_comes_back(call_: ForwardedCall | None) -> None:
    assert ForwardedCall.parse(None if call_ is None else call_.to_text()) == call_
    assert ForwardedCall.parse("") is None


@pytest.mark.parametrize(
    ("result", "described"),
    [
        (answer(404, {"detail": {"reason": "not_found"}}), ABSENT),
        (answer(200, RUN | {"clear_number": 3}), "3"),
        (answer(200, {}), UNKNOWN),
        (answer(200, [1]), UNKNOWN),
        (answer(200), UNKNOWN),
        (answer(403, RUN), UNKNOWN),
        (answer(500), UNKNOWN),
    ],
)
def test_run_is_described_by_airflow_s_answer(result: ApiResult, described: str) -> None:
    assert describe_run(result) == described


@pytest.mark.parametrize(
    ("before", "now", "cleared"),
    [
        ("0", answer(200, RUN | {"clear_number": 1}), True),
        ("9", answer(200, RUN | {"clear_number": 10}), True),
        ("1", answer(200, RUN | {"clear_number": 1}), False),
        (ABSENT, answer(200, RUN | {"clear_number": 1}), False),
        (UNKNOWN, answer(200, RUN | {"clear_number": 1}), False),
        ("0", answer(404), False),
        ("0", answer(500), False),
    ],
)
def test_run_was_cleared_when_its_number_has_grown(before: str, now: ApiResult, cleared: bool) -> None:
    assert was_cleared(before, now) is cleared


@pytest.mark.parametrize(
    ("before", "asked", "now", "ours"),
    [
        (ABSENT, ASKED, answer(200, RUN), True),
        (ABSENT, ASKED | {"run_after": "2026-01-01T12:00:05+00:00"}, answer(200, RUN), True),
        (ABSENT, {}, answer(200, RUN | {"conf": None, "logical_date": None}), True),
        (ABSENT, {"conf": {}}, answer(200, RUN | {"conf": {}, "logical_date": None}), True),
        ("0", ASKED, answer(200, RUN), False),
        (UNKNOWN, ASKED, answer(200, RUN), False),
        (ABSENT, ASKED, answer(404), False),
        (ABSENT, ASKED, answer(403, RUN), False),
        (ABSENT, ASKED, answer(200, RUN | {"run_type": "manual"}), False),
        (ABSENT, ASKED, answer(200, RUN | {"conf": {"a": 2}}), False),
        (ABSENT, ASKED, answer(200, RUN | {"partition_key": "k"}), False),
        (ABSENT, ASKED, answer(200, RUN | {"logical_date": "2026-01-01T12:00:00Z"}), False),
        (ABSENT, ASKED, answer(200, RUN | {"logical_date": None}), False),
        (ABSENT, ASKED, answer(200, RUN | {"logical_date": "never"}), False),
        (ABSENT, ASKED | {"run_after": "2026-01-01T12:00:06Z"}, answer(200, RUN), False),
    ],
)
def test_run_is_ours_when_it_was_not_there_and_has_what_was_asked_for(
    before: str, asked: object, now: ApiResult, ours: bool
) -> None:
    assert was_triggered(before, json.dumps(asked).encode(), now) is ours


def refused(status: int, message: str = "", previous: str | None = None) -> ApiResult:
    return answer(status, {"detail": {"reason": "x", "message": message, "previous_state": previous}})


@pytest.mark.parametrize(
    ("told", "result", "taken"),
    [
        ("up_for_retry", refused(404), True),
        ("success", refused(404), True),
        ("deferred", refused(404), True),
        ("deferred", refused(409, previous="scheduled"), True),
        ("deferred", refused(409, previous="queued"), True),
        ("deferred", refused(409, previous="success"), True),
        ("awaiting_input", refused(409, previous="scheduled"), True),
        ("up_for_reschedule", refused(409, previous="queued"), True),
        ("deferred", refused(409, previous="restarting"), False),
        ("up_for_reschedule", refused(409, previous="restarting"), False),
        # Told the same again, Airflow says yes: it has another state, and that is not ours.
        ("success", refused(409, previous="failed"), False),
        ("failed", refused(409, previous="success"), False),
        ("skipped", refused(409, previous="restarting"), False),
        ("up_for_retry", refused(409, previous="failed"), False),
        ("deferred", refused(422), False),
        ("success", answer(500), False),
        (None, refused(409, previous="queued"), False),
    ],
)
def test_state_was_taken_when_nothing_else_explains_the_refusal(
    told: str | None, result: ApiResult, taken: bool
) -> None:
    body = json.dumps({"state": told}).encode()
    assert means_success(call("PATCH", STATE, body=body), result) is taken


@pytest.mark.parametrize(
    ("told", "result", "ours"),
    [
        ("success", refused(409, "Connection test c is already in terminal state: success"), True),
        (
            "success",
            refused(409, "test c is already in terminal state: ConnectionTestState.SUCCESS"),
            True,
        ),
        ("failed", refused(409, "Connection test c is already in terminal state: success"), False),
        ("success", refused(404, "no such test: success"), False),
        ("success", answer(409, {"detail": "success"}), False),
    ],
)
def test_connection_test_has_ended_as_told_or_another_s_way(told: str, result: ApiResult, ours: bool) -> None:
    body = json.dumps({"state": told}).encode()
    assert means_success(call("PATCH", "connection-tests/c", body=body), result) is ours


@pytest.mark.parametrize("target", ["xcoms/d/r/t/k", "dag-runs/d/r", "dag-runs/d/r/clear"])
def test_no_refusal_of_any_other_call_is_a_success(target: str) -> None:
    assert not means_success(call("POST", target), refused(409, "already_exists"))
