"""A call counts once: when it comes again, when its answer was lost, and when its task was queued anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.execution_api.response_cache import CacheLimits
from tests.support.scenario_relay import JOB, RUN, STATE, WORKER, Answer, Held, api, call, job, scenario


@scenario
async def test_an_answer_that_is_larger_than_all_that_is_kept_is_not_kept() -> None:
    async with api(Held(job()), cache=CacheLimits(response_bytes=3)) as (relay, server):
        for _ in range(2):
            await relay.answer(WORKER, call())
        assert len(server.seen) == 2


@scenario
async def test_kept_answers_are_bounded_in_bytes() -> None:
    async with api(Held(job()), cache=CacheLimits(response_bytes=8)) as (relay, server):
        # Each answer has four bytes.
        for request_id in ("r1", "r2", "r3", "r3"):
            await relay.answer(WORKER, call(request_id=request_id))
        assert len(server.seen) == 3
        assert relay._responses.get((WORKER, "r1")) is None
        assert relay._responses.get((WORKER, "r2")) is not None


@scenario
async def test_an_answer_is_forgotten_with_its_job() -> None:
    async with api(Held(job())) as (relay, server):
        await relay.answer(WORKER, call())
        relay.forget_job(JOB)
        await relay.answer(WORKER, call())
        assert len(server.seen) == 2


@scenario
async def test_nothing_is_kept_of_a_job_that_is_over() -> None:
    held = Held(job())
    async with api(held) as (relay, server):
        server.gate.clear()
        answer = asyncio.create_task(relay.answer(WORKER, call()))
        await server.arrived.wait()
        held.current = replace(held.current, state=CentralJobState.FINISHED)
        relay.forget_job(JOB)
        server.gate.set()
        await answer
        await relay.answer(WORKER, call())
        assert len(server.seen) == 1
        held.current = replace(held.current, state=CentralJobState.RUNNING)
        await relay.answer(WORKER, call())
        assert len(server.seen) == 2


@scenario
async def test_a_call_that_arrives_once_more_after_later_ones_is_made_once() -> None:
    async with api(Held(job()), cache=CacheLimits(responses_per_job=2, calls_per_job=4)) as (relay, server):
        for number in range(4):
            await relay.answer(WORKER, call("POST", "xcoms/d/r/t/k", f"r{number}", body=str(number).encode()))
        newest = await relay.answer(WORKER, call("POST", "xcoms/d/r/t/k", "r3", body=b"3"))
        assert newest is not None
        assert newest.status == 200
        for number in range(2):
            assert await relay.answer(WORKER, call("POST", "xcoms/d/r/t/k", f"r{number}", body=b"late")) is None
        assert [seen.body for seen in server.seen] == [b"0", b"1", b"2", b"3"]


NOT_RUNNING: Answer = (
    409,
    [],
    b'{"detail":{"reason":"invalid_state","message":"not running","previous_state":"deferred"}}',
)
NO_SUCH: Answer = (404, [], b'{"detail":{"reason":"not_found","message":"Task Instance not found"}}')
EXISTS: Answer = (409, [], b'{"detail":{"reason":"already_exists","message":"A run already exists"}}')
TEST_IS_OVER: Answer = (409, [], b'{"detail":{"reason":"conflict","message":"already in terminal state"}}')


@pytest.mark.parametrize(
    ("method", "target", "answer"),
    [
        ("PATCH", STATE, NOT_RUNNING),
        ("PATCH", STATE, NO_SUCH),
        ("POST", "dag-runs/d/r", EXISTS),
        ("PATCH", "connection-tests/c", TEST_IS_OVER),
    ],
)
def test_a_repeated_call_that_airflow_refuses_because_it_has_made_it_has_succeeded(
    method: str, target: str, answer: Answer
) -> None:
    async def test() -> None:
        async with api(Held(job())) as (relay, server):
            server.answers += [answer, answer]
            first = await relay.answer(WORKER, call(method, target, "r1"))
            repeated = await relay.answer(WORKER, call(method, target, "r2", repeated=True))
            assert first is not None
            assert repeated is not None
            assert (first.status, repeated.status, repeated.body) == (answer[0], 204, b"")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("method", "target", "answer"),
    [
        ("POST", "dag-runs/d/r", NO_SUCH),
        ("POST", "dag-runs/d/r/clear", NO_SUCH),
        ("POST", "dag-runs/d/r", (409, [], b"{}")),
        ("PATCH", "task-instances/ti-1/skip-downstream", NO_SUCH),
        ("PATCH", "connection-tests/c", NO_SUCH),
        ("PATCH", STATE, (422, [], b"{}")),
    ],
)
def test_any_other_refusal_of_a_repeated_call_is_told(method: str, target: str, answer: Answer) -> None:
    async def test() -> None:
        async with api(Held(job())) as (relay, server):
            server.answers.append(answer)
            response = await relay.answer(WORKER, call(method, target, repeated=True))
            assert response is not None
            assert response.status == answer[0]

    asyncio.run(test())


@scenario
async def test_a_call_that_was_under_way_when_the_api_server_went_may_have_been_carried_out() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers += [(504, [], b""), NOT_RUNNING]
        response = await relay.answer(WORKER, call("PATCH", STATE))
        assert response is not None
        assert response.status == 204
        assert relay.is_muted(JOB)


@scenario
async def test_the_state_of_a_superseded_job_is_not_told_twice() -> None:
    async with api(Held(job(), superseded=True)) as (relay, server):
        response = await relay.answer(WORKER, call("PATCH", STATE))
        assert response is not None
        assert response.status == 204
        assert relay.is_muted(JOB)
        assert server.seen == []


@scenario
async def test_a_superseded_job_can_change_nothing() -> None:
    async with api(Held(job(), superseded=True)) as (relay, server):
        response = await relay.answer(WORKER, call("POST", "xcoms/d/r/t/k", body=b"1"))
        assert response is not None
        assert response.status == 409
        assert b"queued the task again" in response.body
        assert server.seen == []


@scenario
async def test_a_job_that_is_superseded_while_its_call_waits_makes_it_no_more() -> None:
    held = Held(job())
    async with api(held) as (relay, server):
        server.answers.append((503, [], b""))
        answer = asyncio.create_task(relay.answer(WORKER, call("PATCH", STATE)))
        await server.arrived.wait()
        held.superseded = True
        response = await answer
        assert response is not None
        assert response.status == 204
        assert len(server.seen) == 1


@scenario
async def test_a_start_that_airflow_refuses_is_noted_with_its_reason() -> None:
    held = Held(job(CentralJobState.ASSIGNED))
    async with api(held) as (relay, server):
        server.answers += [NOT_RUNNING, (500, [], b"")]
        await relay.answer(WORKER, call("PATCH", RUN, "r1", body=b"{}"))
        await relay.answer(WORKER, call("PATCH", RUN, "r2", body=b"{}"))
        assert held.start_refusals == ["invalid_state: not running"]
