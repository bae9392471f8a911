"""What tasks tell Airflow of their end is noted, and before Airflow hears it when the task goes on afterwards."""

from __future__ import annotations

import asyncio
import json

import pytest

from edge_mqtt.broker_bridge.execution_api.last_words import FINAL
from tests.support.scenario_relay import JOB, STATE, WORKER, Answer, Held, api, call, job, scenario

GOES_ON = ["deferred", "up_for_reschedule", "up_for_retry", "awaiting_input"]
NOT_RUNNING: Answer = (409, [], b'{"detail": {"reason": "invalid_state", "message": "not running"}}')


def tells(state: object) -> bytes:
    return json.dumps({"state": state, "end_date": "2026-01-01T00:00:00Z"}).encode()


def test_final_states_are_airflow_s() -> None:
    from airflow.utils.state import TerminalTIState

    assert {state.value for state in TerminalTIState} == FINAL


@pytest.mark.parametrize("state", GOES_ON)
def test_word_after_which_a_task_goes_on_is_stored_before_airflow_hears_it(state: str) -> None:
    async def test() -> None:
        held = Held(job(), ledger_full=True)
        async with api(held) as (relay, server):
            answer = asyncio.create_task(relay.answer(WORKER, call("PATCH", STATE, body=tells(state))))
            await held.refused.wait()
            assert server.seen == []
            held.ledger_full = False
            await answer
            assert held.words == [(state, True)]
            assert len(server.seen) == 1

    asyncio.run(test())


@pytest.mark.parametrize("state", sorted(FINAL))
def test_final_word_is_noted_and_not_waited_for(state: str) -> None:
    async def test() -> None:
        held = Held(job(), ledger_full=True)
        async with api(held) as (relay, _):
            await relay.answer(WORKER, call("PATCH", STATE, body=tells(state)))
            assert held.words == [(state, False)]

    asyncio.run(test())


@scenario
async def test_word_that_airflow_refuses_is_taken_back() -> None:
    held = Held(job())
    async with api(held) as (relay, server):
        server.answers.append(NOT_RUNNING)
        await relay.answer(WORKER, call("PATCH", STATE, body=tells("deferred")))
        assert held.words == [("deferred", True), ("", False)]


@scenario
async def test_repeated_word_that_airflow_has_already_stands() -> None:
    held = Held(job())
    async with api(held) as (relay, server):
        server.answers.append(NOT_RUNNING)
        await relay.answer(WORKER, call("PATCH", STATE, body=tells("deferred"), repeated=True))
        assert held.words == [("deferred", True)]


@scenario
async def test_word_of_a_superseded_job_is_noted_too() -> None:
    held = Held(job(), superseded=True)
    async with api(held) as (relay, _):
        await relay.answer(WORKER, call("PATCH", STATE, body=tells("up_for_reschedule")))
        assert held.words == [("up_for_reschedule", True)]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"{}", tells(None), tells(1), tells("Deferred"), tells("a" * 41), tells("\ud800")],
)
def test_body_that_tells_no_state_is_passed_on_and_notes_nothing(body: bytes) -> None:
    async def test() -> None:
        held = Held(job())
        async with api(held) as (relay, server):
            await relay.answer(WORKER, call("PATCH", STATE, body=body))
            assert held.words == []
            assert server.seen[0].body == body

    asyncio.run(test())


@scenario
async def test_calls_of_other_kinds_are_no_last_words() -> None:
    held = Held(job())
    async with api(held) as (relay, _):
        await relay.answer(WORKER, call("POST", "xcoms/d/r/t/k", body=tells("success")))
        assert held.words == []
        assert not relay.is_muted(JOB)
