"""What the bridge's own log says of jobs: one line at the beginning and one at the end, whoever is told how often."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from edge_mqtt.broker_bridge.background_tasks import BackgroundTasks
from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.job_log import JobLog
from edge_mqtt.broker_bridge.outbound import Outbound
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Finished, JobSpec, Message, Presence, WorkerState, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics

EXECUTOR, OTHER, WORKER, JOB = ExecutorName("e"), ExecutorName("f"), WorkerName("w"), JobId("j")
SUBMITTED = events.Submitted(
    executor=EXECUTOR, job=JobSpec(job_id=JOB, type=WorkloadType.TASK, queue="q"), token="secret"
)
HELLO = events.WorkerSeen(
    worker=WORKER,
    presence=Presence(incarnation="i", connection=1, state=WorkerState.ONLINE, queues=("q",), concurrency=1),
)
CANCELLED = events.CancelAsked(executor=EXECUTOR, job_id=JOB)
CONNECTED = events.ExecutorConnected(executor=EXECUTOR)


class Channel:
    """Sends into the void."""

    def send(self, topic: str, message: Message) -> bool:
        return True


def result(exit_code: int) -> events.ResultReported:
    return events.ResultReported(worker=WORKER, result=Finished(job_id=JOB, fence=Fence(1), exit_code=exit_code))


def lines_of(test: Callable[[DispatchService], Awaitable[None]], caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines that a bridge logs about its jobs while ``test`` lasts."""

    async def run() -> None:
        dispatcher = Dispatcher(DispatchSettings())
        service = DispatchService(dispatcher, AsyncLedger(MemoryLedger()), ChangeFeed())
        await service.load()
        nothing, tasks = cast("Any", None), BackgroundTasks()
        outbound = Outbound(
            Topics(),
            cast("Any", Channel()),
            job_log=JobLog(dispatcher.view),
            receiver=nothing,
            allocator=nothing,
            tasks=tasks,
        )
        loop = asyncio.create_task(service.run(outbound.perform, lambda _: None))
        try:
            await test(service)
            # Effects of one batch are performed before the next one is decided.
            await service.commit(events.Tick())
        finally:
            loop.cancel()
            await asyncio.gather(loop, return_exceptions=True)
            await tasks.stop()

    caplog.set_level("INFO")
    asyncio.run(run())
    about = [record for record in caplog.records if getattr(record, "job_id", None) == JOB]
    return [" ".join([record.getMessage(), getattr(record, "outcome", "")]).strip() for record in about]


def test_a_job_s_start_and_end_are_said_once_however_often_an_executor_asks(caplog: pytest.LogCaptureFixture) -> None:
    async def test(service: DispatchService) -> None:
        await service.commit(SUBMITTED)
        await service.commit(HELLO)
        assert await service.ask_start(WORKER, JOB, Fence(1), "host:1") is None
        await service.commit(CONNECTED)
        await service.commit(result(exit_code=0))
        for _ in range(3):
            await service.commit(CONNECTED)
        await service.commit(result(exit_code=0))
        await service.commit(events.EventAcked(executor=EXECUTOR, job_id=JOB))

    assert lines_of(test, caplog) == ["job accepted", "job assigned", "job started", "job finished success"]


def test_the_end_of_a_waiting_job_that_is_cancelled_is_said(caplog: pytest.LogCaptureFixture) -> None:
    async def test(service: DispatchService) -> None:
        await service.commit(SUBMITTED)
        await service.commit(CANCELLED)
        await service.commit(CANCELLED)

    assert lines_of(test, caplog) == ["job accepted", "job cancelled cancelled"]


def test_the_end_of_a_running_job_that_is_cancelled_is_said_when_it_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(service: DispatchService) -> None:
        await service.commit(SUBMITTED)
        await service.commit(HELLO)
        assert await service.ask_start(WORKER, JOB, Fence(1), "host:1") is None
        await service.commit(CANCELLED)
        await service.commit(result(exit_code=1))

    lines = lines_of(test, caplog)
    assert lines == ["job accepted", "job assigned", "job started", "job cancelled cancelled"]
    assert "secret" not in caplog.text


def test_a_job_that_comes_too_late_is_denied_and_one_that_is_taken_over_has_not_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(service: DispatchService) -> None:
        await service.commit(CANCELLED)
        await service.commit(SUBMITTED)

    assert lines_of(test, caplog) == ["job denied"]
    caplog.clear()

    async def taken_over(service: DispatchService) -> None:
        await service.commit(SUBMITTED)
        await service.commit(events.AdoptAsked(executor=OTHER, request_id="r", job_ids=(JOB,), take_over=True))

    assert lines_of(taken_over, caplog) == ["job accepted", "job taken over"]
