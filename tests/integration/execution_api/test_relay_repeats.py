"""A call counts once: when it comes again, when its answer was lost, and when its task was queued anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.execution_api.response_cache import CacheLimits
from tests.support.scenario_relay import JOB, RUN, STATE, WORKER, Answer, Held, Issuer, api, call, job, scenario


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
TEST_IS_OVER: Answer = (409, [], b'{"detail":{"reason":"conflict","message":"already in terminal state: success"}}')

EXPIRED: Answer = (403, [], b'{"detail":"Invalid auth token"}')


TEST_BODY = b'{"state": "success"}'
DEFERRED = b'{"state": "deferred"}'
RUN_NOW: Answer = (200, [], b'{"run_type":"operator_triggered","conf":{},"logical_date":null,"clear_number":1}')
RUN_BEFORE: Answer = (200, [], b'{"run_type":"operator_triggered","conf":{},"logical_date":null,"clear_number":0}')
MADE: Answer = (204, [], b"")
TRIGGER = "dag-runs/d/r"
CLEAR = "dag-runs/d/r/clear"


@pytest.mark.parametrize(
    ("method", "target", "body", "answer"),
    [
        ("PATCH", STATE, DEFERRED, NOT_RUNNING),
        ("PATCH", STATE, DEFERRED, NO_SUCH),
        ("PATCH", "connection-tests/c", TEST_BODY, TEST_IS_OVER),
    ],
)
def test_a_repeated_call_that_airflow_refuses_because_it_has_made_it_has_succeeded(
    method: str, target: str, body: bytes, answer: Answer
) -> None:
    async def test() -> None:
        async with api(Held(job())) as (relay, server):
            server.answers += [answer, answer]
            first = await relay.answer(WORKER, call(method, target, "r1", body=body))
            repeated = await relay.answer(WORKER, call(method, target, "r2", body=body, repeated=True))
            assert first is not None
            assert repeated is not None
            assert (first.status, repeated.status, repeated.body) == (answer[0], 204, b"")

    asyncio.run(test())


@pytest.mark.parametrize(
    ("method", "target", "answer"),
    [
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


@pytest.mark.parametrize(
    ("target", "answers", "status"),
    [
        # What Airflow answers: what the run is, the call, and so on.
        (TRIGGER, [NO_SUCH, MADE], 204),
        (TRIGGER, [RUN_BEFORE, EXISTS], 409),
        (TRIGGER, [NO_SUCH, (503, [], b""), RUN_NOW, EXISTS], 409),
        (TRIGGER, [NO_SUCH, (502, [], b""), NO_SUCH, MADE], 204),
        (TRIGGER, [NO_SUCH, (429, [], b""), NO_SUCH, EXISTS], 409),
        (TRIGGER, [NO_SUCH, (504, [], b""), EXISTS, RUN_NOW], 204),
        (TRIGGER, [NO_SUCH, (504, [], b""), (503, [], b""), EXISTS, (503, [], b""), EXISTS, RUN_NOW], 204),
        (TRIGGER, [RUN_BEFORE, (504, [], b""), EXISTS, RUN_NOW], 409),
        (TRIGGER, [(503, [], b""), NO_SUCH, (504, [], b""), MADE], 204),
        (TRIGGER, [(500, [], b""), (504, [], b""), EXISTS, RUN_NOW], 409),
        (CLEAR, [RUN_BEFORE, MADE], 204),
        (CLEAR, [RUN_BEFORE, (504, [], b""), RUN_NOW], 204),
        (CLEAR, [RUN_BEFORE, (504, [], b""), RUN_BEFORE, MADE], 204),
        (CLEAR, [NO_SUCH, NO_SUCH], 404),
        (CLEAR, [RUN_BEFORE, (503, [], b""), RUN_NOW, MADE], 204),
    ],
)
def test_a_call_on_a_run_is_made_as_often_as_it_has_to_be(target: str, answers: list[Answer], status: int) -> None:
    async def test() -> None:
        async with api(Held(job())) as (relay, server):
            server.answers += answers
            response = await relay.answer(WORKER, call("POST", target, repeated=True))
            assert response is not None
            assert response.status == status
            assert server.answers == []
            looks = [seen.line for seen in server.seen if seen.line.startswith("GET")]
            assert set(looks) == {"GET /execution/dag-runs/d/r"}

    asyncio.run(test())


@pytest.mark.parametrize(("target", "call_"), [(TRIGGER, "absent r1"), (CLEAR, "0 r1")])
def test_a_call_on_a_run_that_another_bridge_forwarded_is_in_doubt(target: str, call_: str) -> None:
    async def test() -> None:
        async with api(Held(replace(job(), forwarded=call_))) as (relay, server):
            server.answers += [EXISTS, RUN_NOW] if target == TRIGGER else [RUN_NOW]
            response = await relay.answer(WORKER, call("POST", target, repeated=True))
            assert response is not None
            assert response.status == 204
            assert server.answers == []

    asyncio.run(test())


@scenario
async def test_what_a_run_was_is_stored_before_the_call_on_it_is_forwarded() -> None:
    held = Held(job(), ledger_full=True)
    async with api(held) as (relay, server):
        server.answers += [NO_SUCH, MADE]
        answer = asyncio.create_task(relay.answer(WORKER, call("POST", TRIGGER)))
        await asyncio.wait_for(held.refused.wait(), 10)
        assert [seen.line.split()[0] for seen in server.seen] == ["GET"]
        held.ledger_full = False
        await answer
        assert held.current.forwarded == "absent r1"


@scenario
async def test_a_repetition_that_this_bridge_has_not_forwarded_is_a_first_call() -> None:
    held = Held(job(CentralJobState.ASSIGNED))
    async with api(held) as (relay, server):
        server.answers += [(200, [], b"{}"), NOT_RUNNING]
        await relay.answer(WORKER, call("PATCH", RUN, "r1", body=b"{}"))
        response = await relay.answer(WORKER, call("PATCH", STATE, "r2", body=DEFERRED, repeated=True))
        assert response is not None
        assert response.status == 409


@scenario
async def test_a_token_that_expired_makes_no_doubt() -> None:
    async with api(Held(job()), Issuer("issued")) as (relay, server):
        server.answers += [NO_SUCH, EXPIRED, NO_SUCH, MADE]
        response = await relay.answer(WORKER, call("POST", TRIGGER))
        assert response is not None
        assert (response.status, server.answers) == (204, [])


@pytest.mark.parametrize(
    ("target", "noted", "answers", "calls"),
    [
        # The bridge that asked with the token, and the one after it that asks again before it clears.
        (TRIGGER, "", [NO_SUCH, MADE], ["GET", "GET", "POST"]),
        (CLEAR, "0 r1", [RUN_NOW], ["GET", "GET"]),
    ],
)
def test_what_a_run_is_is_asked_again_when_the_token_has_expired(
    target: str, noted: str, answers: list[Answer], calls: list[str]
) -> None:
    async def test() -> None:
        held = Held(replace(job(), forwarded=noted))
        async with api(held, Issuer("issued")) as (relay, server):
            server.answers += [EXPIRED, *answers]
            response = await relay.answer(WORKER, call("POST", target, repeated=True))
            assert response is not None
            assert (response.status, server.answers) == (204, [])
            assert [seen.line.split()[0] for seen in server.seen] == calls
            assert held.current.forwarded == (noted or "absent r1")

    asyncio.run(test())


@scenario
async def test_a_call_that_was_under_way_when_the_api_server_went_may_have_been_carried_out() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers += [(504, [], b""), NOT_RUNNING]
        response = await relay.answer(WORKER, call("PATCH", STATE, body=DEFERRED))
        assert response is not None
        assert response.status == 204
        assert relay.is_muted(JOB)


@pytest.mark.parametrize("status", [502, 503, 429])
def test_a_call_that_was_turned_away_was_not_carried_out(status: int) -> None:
    async def test() -> None:
        async with api(Held(job())) as (relay, server):
            server.answers += [(status, [], b""), NOT_RUNNING]
            response = await relay.answer(WORKER, call("PATCH", STATE, body=DEFERRED))
            assert response is not None
            assert response.status == 409

    asyncio.run(test())


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
