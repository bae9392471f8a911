"""Calls from the edge reach the Execution API only for who holds the job, once, and wait while it is away."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.execution_api.client import ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.forwarding import RelayLimits
from edge_mqtt.broker_bridge.execution_api.warm_up import warm_up
from edge_mqtt.broker_bridge.protocol.ids import Fence, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import StartRequest, WorkloadType
from tests.support.scenario_relay import JOB, RUN, WORKER, Answer, Held, Issuer, api, call, job, scenario


@scenario
async def test_a_call_gets_the_job_s_token_and_keeps_its_own_headers() -> None:
    async with api(Held(job())) as (relay, server):
        response = await relay.answer(WORKER, call("POST", "xcoms/d/r/t/k?x=%2F", body=b"[1]"))
        assert response is not None
        assert (response.status, response.body) == (200, b'"ok"')
        (seen,) = server.seen
        assert seen.line == "POST /execution/xcoms/d/r/t/k?x=%2F"
        assert seen.headers["authorization"] == "Bearer t1"
        assert seen.headers["airflow-api-version"] == "2026-06-30"
        assert seen.headers["correlation-id"] == "r1"
        assert seen.body == b"[1]"


@scenario
async def test_the_answer_s_headers_that_somebody_reads_arrive_and_no_others() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers.append(
            (206, ["Content-Range: map_indexes 10", "Connection: keep-alive", "Vary: x", "correlation-id: r1"], b"")
        )
        response = await relay.answer(WORKER, call("HEAD", "xcoms/d/r/t/k"))
        assert response is not None
        assert response.headers == {"content-range": "map_indexes 10", "content-type": "application/json"}


@pytest.mark.parametrize("changes", [{"fence": 2}, {"fence": 4}, {"job_id": "other"}])
def test_a_call_with_a_stale_fence_or_for_another_job_is_refused(changes: dict[str, Any]) -> None:
    async def test() -> None:
        async with api(Held(job())) as (relay, server):
            response = await relay.answer(WORKER, call(**changes))
            assert response is not None
            assert response.status == 409
            assert json.loads(response.body)["detail"]["reason"] == "not_yours"
            assert server.seen == []

    asyncio.run(test())


@scenario
async def test_a_task_that_has_not_started_is_answered_as_airflow_would() -> None:
    async with api(Held(job(CentralJobState.ASSIGNED))) as (relay, server):
        response = await relay.answer(WORKER, call("GET", "connections/the_log_store"))
        assert response is not None
        assert response.status == 403
        assert server.seen == []
        response = await relay.answer(WorkerName("thief"), call("GET", "connections/the_log_store"))
        assert response is not None
        assert response.status == 409


@scenario
async def test_a_call_of_another_worker_is_refused() -> None:
    async with api(Held(job())) as (relay, server):
        response = await relay.answer(WorkerName("thief"), call())
        assert response is not None
        assert response.status == 409
        assert server.seen == []


@scenario
async def test_the_run_call_is_recorded_before_it_is_passed_on_and_its_token_is_kept_here() -> None:
    held = Held(job(CentralJobState.ASSIGNED))
    async with api(held) as (relay, server):
        server.answers.append((200, ["Refreshed-API-Token: t2"], b"{}"))
        body = json.dumps({"hostname": "edge-1", "pid": 42}).encode()
        response = await relay.answer(WORKER, call("PATCH", RUN, body=body))
        assert response is not None
        assert response.status == 200
        assert "refreshed-api-token" not in response.headers
        assert held.starts == ["edge-1:42"]
        await relay.answer(WORKER, call(request_id="r2"))
        assert server.seen[1].headers["authorization"] == "Bearer t2"


@scenario
async def test_a_run_call_that_is_not_permitted_never_reaches_airflow() -> None:
    async with api(Held(job(CentralJobState.ASSIGNED), refusal="the fence is 4")) as (relay, server):
        response = await relay.answer(WORKER, call("PATCH", RUN, body=b"{}"))
        assert response is not None
        assert response.status == 409
        assert b"the fence is 4" in response.body
        assert server.seen == []


def test_a_start_waits_until_it_can_be_recorded() -> None:
    async def test() -> None:
        held = Held(job(CentralJobState.ASSIGNED), ledger_full=True)
        async with api(held) as (relay, server):
            answer = asyncio.create_task(relay.answer(WORKER, call("PATCH", RUN, body=b"{}")))
            await asyncio.wait_for(held.refused.wait(), 10)
            assert server.seen == []
            held.ledger_full = False
            response = await answer
            assert response is not None
            assert response.status == 200

    asyncio.run(test())


def test_an_answer_is_not_thrown_away_because_its_token_cannot_be_stored() -> None:
    async def test() -> None:
        held = Held(job(), ledger_full=True)
        async with api(held) as (relay, server):
            server.answers.append((201, ["Refreshed-API-Token: t2"], b'"made"'))
            answer = asyncio.create_task(relay.answer(WORKER, call("POST", "xcoms/d/r/t/k")))
            await asyncio.wait_for(held.refused.wait(), 10)
            held.ledger_full = False
            response = await answer
            assert response is not None
            assert (response.status, response.body, held.current.token) == (201, b'"made"', "t2")
            assert len(server.seen) == 1

    asyncio.run(test())


@scenario
async def test_a_start_request_is_answered_without_airflow_and_only_for_what_makes_no_run_call() -> None:
    request = StartRequest(request_id="r", job_id=JOB, fence=Fence(3))
    async with api(Held(job(CentralJobState.ASSIGNED, WorkloadType.CALLBACK))) as (relay, server):
        response = await relay.answer(WORKER, request)
        assert response is not None
        assert response.status == 200
        assert server.seen == []
    async with api(Held(job(CentralJobState.ASSIGNED))) as (relay, server):
        response = await relay.answer(WORKER, request)
        assert response is not None
        assert response.status == 409


@scenario
async def test_the_execution_api_is_warmed_up_without_a_token() -> None:
    async with api(Held(job())) as (_, server):
        client = ExecutionApiClient(f"http://127.0.0.1:{server.port}/execution/")
        await asyncio.wait_for(warm_up(client, "2026-06-30"), 10)
        await client.aclose()
        assert server.seen[0].line == "GET /execution/health"
        assert "authorization" not in server.seen[0].headers


@scenario
async def test_a_header_that_http_does_not_allow_is_an_error_of_the_caller() -> None:
    async with api(Held(job())) as (relay, server):
        response = await relay.answer(WORKER, call(headers={"traceparent": "a\r\nb"}))
        assert response is not None
        assert response.status == 400
        assert server.seen == []


@scenario
async def test_headers_that_are_not_a_supervisor_s_stay_here() -> None:
    async with api(Held(job())) as (relay, server):
        await relay.answer(WORKER, call(headers={"Authorization": "Bearer forged", "X-Forwarded-For": "1.2.3.4"}))
        assert server.seen[0].headers["authorization"] == "Bearer t1"
        assert "x-forwarded-for" not in server.seen[0].headers


@scenario
async def test_a_repeated_call_is_made_once() -> None:
    async with api(Held(job())) as (relay, server):
        server.gate.clear()
        first = asyncio.create_task(relay.answer(WORKER, call()))
        await server.arrived.wait()
        assert await relay.answer(WORKER, call()) is None
        server.gate.set()
        assert await first == await relay.answer(WORKER, call())
        assert len(server.seen) == 1


@scenario
async def test_a_call_waits_while_the_api_server_is_not_ready() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers += [(503, [], b""), (502, [], b"")]
        response = await relay.answer(WORKER, call())
        assert response is not None
        assert response.status == 200
        assert len(server.seen) == 3


DATABASE_ERROR: Answer = (500, [], b'{"detail": {"reason": "Database error", "statement": "hidden"}}')


@scenario
async def test_a_call_waits_while_airflow_s_database_is_away() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers += [DATABASE_ERROR, DATABASE_ERROR]
        response = await relay.answer(WORKER, call())
        assert response is not None
        assert response.status == 200
        assert len(server.seen) == 3


def test_a_call_that_the_database_never_takes_is_answered_in_the_end() -> None:
    @scenario
    async def test() -> None:
        async with api(Held(job()), limits=RelayLimits(retry_s=0.01, database_attempts=2)) as (relay, server):
            server.answers += [DATABASE_ERROR] * 9
            response = await relay.answer(WORKER, call())
            assert response is not None
            assert response.status == 500
            assert len(server.seen) == 3

    test()


@scenario
async def test_another_error_of_the_api_server_is_handed_on_at_once() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers.append((500, [], b"Internal Server Error"))
        response = await relay.answer(WORKER, call())
        assert response is not None
        assert response.status == 500
        assert len(server.seen) == 1


@scenario
async def test_a_waiting_call_ends_when_the_job_is_taken_away() -> None:
    held = Held(job())
    async with api(held) as (relay, server):
        server.answers.append((503, [], b""))
        answer = asyncio.create_task(relay.answer(WORKER, call()))
        await server.arrived.wait()
        held.current = replace(held.current, fence=Fence(4))
        response = await answer
        assert response is not None
        assert response.status == 409


@scenario
async def test_an_expired_token_is_replaced_where_the_bridge_can_sign() -> None:
    held = Held(job())
    async with api(held, Issuer("issued")) as (relay, server):
        server.answers.append((403, [], b'{"detail":"Invalid auth token"}'))
        response = await relay.answer(WORKER, call())
        assert response is not None
        assert response.status == 200
        assert server.seen[1].headers["authorization"] == "Bearer issued"


@scenario
async def test_a_token_that_expires_while_the_api_server_is_away_is_replaced_each_time() -> None:
    async with api(Held(job()), Issuer("issued")) as (relay, server):
        expired: Answer = (403, [], b'{"detail":"Invalid auth token"}')
        server.answers += [expired, (503, [], b""), expired]
        response = await relay.answer(WORKER, call())
        assert response is not None
        assert response.status == 200


@scenario
async def test_a_new_token_that_is_refused_is_reported() -> None:
    async with api(Held(job()), Issuer("issued")) as (relay, server):
        server.answers += [(403, [], b'{"detail":"Invalid auth token"}')] * 2
        response = await relay.answer(WORKER, call())
        assert response is not None
        assert response.status == 403


@scenario
async def test_an_expired_token_is_reported_where_it_cannot() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers.append((403, [], b'{"detail":"Invalid auth token"}'))
        response = await relay.answer(WORKER, call())
        assert response is not None
        assert response.status == 403


@scenario
async def test_airflow_gets_no_heartbeats_while_a_state_changes() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers += [(409, [], b"{}"), (204, [], b"")]
        await relay.answer(WORKER, call("PATCH", "task-instances/ti-1/state", "r1"))
        assert not relay.is_muted(JOB)
        await relay.answer(WORKER, call("PATCH", "task-instances/ti-1/state", "r2"))
        assert relay.is_muted(JOB)
        relay.forget_job(JOB)
        assert not relay.is_muted(JOB)


@scenario
async def test_a_stale_run_call_does_not_bring_heartbeats_back_to_a_task_that_has_ended() -> None:
    held = Held(job(), refusal="the fence is 4")
    async with api(held) as (relay, _):
        await relay.answer(WORKER, call("PATCH", "task-instances/ti-1/state", "r1"))
        await relay.answer(WORKER, call("PATCH", RUN, "r2", body=b"{}"))
        assert relay.is_muted(JOB)


@scenario
async def test_airflow_gets_no_heartbeats_until_it_has_answered_the_run_call() -> None:
    held = Held(job(CentralJobState.ASSIGNED))
    async with api(held) as (relay, server):
        server.gate.clear()
        held.on_start = lambda: relay.is_muted(JOB)
        answer = asyncio.create_task(relay.answer(WORKER, call("PATCH", RUN, body=b"{}")))
        await server.arrived.wait()
        assert relay.is_muted(JOB)
        server.gate.set()
        await answer
        assert held.muted_at_start
        assert not relay.is_muted(JOB)


@pytest.mark.parametrize(
    "target",
    ["../api/v2/dags", "..", ".", "a/../../b", "a/./b", "a/..", "a#b", "a b", 'a"b', "a\nb", "größe", "a\r\nhost: b"],
)
def test_a_target_that_is_no_path_below_the_execution_api_is_refused(target: str) -> None:
    async def test() -> None:
        async with api(Held(job())) as (relay, server):
            response = await relay.answer(WORKER, call(target=target))
            assert response is not None
            assert response.status == 400
            assert server.seen == []

    asyncio.run(test())


@pytest.mark.parametrize(
    "target",
    [
        "variables/http://elsewhere/..%2F",
        "http://elsewhere/",
        "//elsewhere/x",
        "user@elsewhere:80/",
        "variables/C:\\plc\\..\\x",
        "variables/%2e%2e/%2E%2E/x",
        "store/ti/7/a%2F..%2F..%2F..%2Fb",
        "variables/a//b/",
        "variables/...",
        "variables/%zz%",
        "variables/x?a=../..&b=c?d",
        "variables/a%3Fb%23c%0D%0A",
    ],
)
def test_a_key_with_any_characters_reaches_airflow_byte_for_byte(target: str) -> None:
    async def test() -> None:
        async with api(Held(job())) as (relay, server):
            response = await relay.answer(WORKER, call(target=target))
            assert response is not None
            assert response.status == 200
            assert [seen.line for seen in server.seen] == [f"GET /execution/{target}"]
            assert server.seen[0].headers["host"] == f"127.0.0.1:{server.port}"

    asyncio.run(test())


@scenario
async def test_moments_by_a_clock_that_is_wrong_are_corrected_both_ways() -> None:
    async with api(Held(job())) as (relay, server):
        server.answers.append((200, [], b'"2026-01-01T12:02:00Z"'))
        body = b'{"state": "up_for_reschedule", "reschedule_date": "2026-01-01T12:00:00Z"}'
        target = "task-reschedules/ti-1/start_date"
        asked = await relay.answer(WORKER, call("GET", target, "r1", clock_offset_s=120.0))
        await relay.answer(WORKER, call("PATCH", "task-instances/ti-1/state", "r2", body=body, clock_offset_s=120.0))
        assert asked is not None
        assert json.loads(asked.body) == "2026-01-01T12:00:00+00:00"
        assert json.loads(server.seen[1].body)["reschedule_date"] == "2026-01-01T12:02:00+00:00"
