"""Calls of supervisors on their way to the bridge: too large ones, lost ones, repeated ones, halves."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from edge_mqtt.broker_bridge.protocol import codec
from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, StartRequest
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport, Packet
from edge_mqtt.worker.api.server import ExecutionApiServer, _Call
from edge_mqtt.worker.bridge.clock_watch import ClockWatch, moment_now
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link, Received
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.timing import WorkerTiming
from tests.support.scenario_worker_parts import ADDRESS, assignment, connected_link


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.open(tmp_path / "spool.db")


def execution_api(
    jobs: JobStore,
    link: Link,
    *,
    record_permission: Callable[[float], None] = lambda _: None,
    timing: WorkerTiming | None = None,
    clock: ClockWatch | None = None,
) -> ExecutionApiServer:
    return ExecutionApiServer(
        jobs,
        link,
        stop_reason=lambda _: None,
        record_permission=record_permission,
        record_call=lambda _: None,
        clock=clock or ClockWatch(),
        timing=timing,
    )


def large_call(size: int) -> ApiRequest:
    return ApiRequest(
        request_id="r",
        job_id=JobId("j"),
        fence=Fence(1),
        method="POST",
        target="xcoms/d/r/t/k",
        body=os.urandom(size),
    )


@pytest.mark.parametrize("ready", [True, False])
def test_call_that_is_too_large_is_refused_whether_or_not_it_waited_for_the_link(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 200_000)

    async def scenario() -> None:
        async with connected_link() as link:
            jobs = JobStore(spool)
            api = execution_api(jobs, link)
            link.ready = ready
            waiting = asyncio.create_task(api._ask_bridge(large_call(300_000)))
            await asyncio.sleep(0)
            link.ready = True
            api.resend_calls()
            response = await waiting
            jobs.close()
        assert response.status == 413
        assert b"over the limit of 200000 bytes" in response.body

    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize(
    ("request_", "status", "permits"),
    [
        (large_call(10).model_copy(update={"method": "PATCH", "target": "task-instances/x/run"}), 200, True),
        (large_call(10).model_copy(update={"method": "PATCH", "target": "task-instances/x/run"}), 409, False),
        (large_call(10), 200, False),
        (StartRequest(request_id="r", job_id=JobId("j"), fence=Fence(1)), 200, True),
    ],
)
def test_permission_to_start_counts_from_when_it_was_asked_for_first(
    spool: Spool, request_: ApiRequest | StartRequest, status: int, permits: bool
) -> None:
    permitted: list[float] = []

    async def scenario() -> None:
        async with connected_link() as link:
            jobs = JobStore(spool)
            api = execution_api(jobs, link, record_permission=permitted.append)
            link.ready = True
            waiting = asyncio.create_task(api._ask_bridge(request_))
            await asyncio.sleep(0)
            asked_by = boottime()
            api.resend_calls()
            api.record_response(ApiResponse(request_id="r", status=status))
            api.record_response(ApiResponse(request_id="r", status=status))
            assert (await waiting).status == status
            jobs.close()
        assert [asked_at <= asked_by for asked_at in permitted] == [True] * permits

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_call_of_which_only_a_part_arrives_is_not_passed_on(spool: Spool) -> None:
    events: Iterator[dict[str, Any]] = iter(
        [{"type": "http.request", "body": b'{"half', "more_body": True}, {"type": "http.disconnect"}],
    )
    sent: list[object] = []
    scope = {
        "method": "POST",
        "raw_path": b"/execution/xcoms/d/r/t/k",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer s"), (b"x-request-id", b"r")],
    }

    async def receive() -> dict[str, Any]:
        return next(events)

    async def send(event: object) -> None:
        sent.append(event)

    async def scenario() -> None:
        async with connected_link() as link:
            jobs = JobStore(spool)
            job = LocalJob.from_assignment(assignment()).moved_to(LocalJobState.LAUNCHED, secret="s")
            await jobs.change_job(job.job_id, lambda _: job)
            api = execution_api(jobs, link)
            await api.app(scope, receive, cast("Any", send))
            assert not api.jobs_with_calls()
            assert not sent
            jobs.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def listening_link() -> tuple[MemoryBroker, Link]:
    broker = MemoryBroker()
    link = Link(MessageChannel(MemoryTransport(broker, "worker:w", ADDRESS.subscriptions)), ADDRESS)
    link.start()
    link.ready = True
    return broker, link


@pytest.mark.parametrize(
    "request_",
    [large_call(10), StartRequest(request_id="r", job_id=JobId("j"), fence=Fence(1))],
    ids=["call", "start"],
)
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_call_that_is_lost_on_a_live_connection_is_sent_again(
    spool: Spool, request_: ApiRequest | StartRequest, lost: str
) -> None:
    async def scenario() -> None:
        broker, link = listening_link()
        dropped: list[str] = []

        def lose_first(packet: Packet) -> bool:
            if dropped or not packet.topic.endswith(lost.replace("answer", "response")):
                return False
            dropped.append(packet.topic)
            return True

        broker.lose(lose_first)
        asked: list[ApiRequest | StartRequest] = []
        decoder = Decoder()

        def answer(topic: str, payload: bytes) -> None:
            message = decoder.feed(topic, payload)
            assert isinstance(message, ApiRequest | StartRequest)
            asked.append(message)
            response = ApiResponse(request_id=message.request_id, status=200)
            for packet in encode(response):
                broker.publish(ADDRESS.topics.rpc_response(ADDRESS.name), packet, qos=1, retain=False)

        broker.subscribe([ADDRESS.topics.rpc_request(ADDRESS.name)], answer)
        jobs = JobStore(spool)
        api = execution_api(jobs, link, timing=WorkerTiming(call_repeat_s=0.05))

        async def hear() -> None:
            while True:
                event = await link.events.get()
                if isinstance(event, Received) and isinstance(event.message, ApiResponse):
                    api.record_response(event.message)

        parts = [asyncio.create_task(api.repeat_calls()), asyncio.create_task(hear())]
        assert (await api._ask_bridge(request_)).status == 200
        assert len(dropped) == 1
        assert {message.request_id for message in asked} == {"r"}
        assert len(asked) == (1 if lost == "request" else 2)
        # The bridge may be another by now, that does not know what became of the first.
        assert isinstance(asked[-1], StartRequest) or asked[-1].repeated
        for part in parts:
            part.cancel()
        jobs.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_large_call_is_not_sent_again_while_it_may_still_be_on_its_way() -> None:
    small, large = (_Call(large_call(size), cast("Any", None), repeated_at=100.0) for size in (10, 1_000_000))
    assert not small.is_overdue(130.0 - 1.0, repeat_s=30.0)
    assert small.is_overdue(130.0 + 1.0, repeat_s=30.0)
    assert not large.is_overdue(130.0 + 60.0, repeat_s=30.0)
    assert large.is_overdue(130.0 + 62.0, repeat_s=30.0)


def test_call_says_how_far_the_clock_was_off_when_it_was_made(spool: Spool) -> None:
    async def scenario() -> None:
        broker, link = listening_link()
        asked: list[ApiRequest] = []
        decoder = Decoder()

        def hear(topic: str, payload: bytes) -> None:
            message = decoder.feed(topic, payload)
            assert isinstance(message, ApiRequest)
            asked.append(message)

        broker.subscribe([ADDRESS.topics.rpc_request(ADDRESS.name)], hear)
        jobs, clock = JobStore(spool), ClockWatch()
        api = execution_api(jobs, link, clock=clock)
        waiting = asyncio.create_task(api._ask_bridge(large_call(10)))
        await asyncio.sleep(0)
        now = moment_now()
        clock.record_answer(now.boot, now.wall + 90.0)
        api.resend_calls()
        api.record_response(ApiResponse(request_id="r", status=200))
        await waiting
        jobs.close()
        assert [request.clock_offset_s for request in asked] == [0.0, pytest.approx(90.0, abs=1.0)]

    asyncio.run(asyncio.wait_for(scenario(), 20))
