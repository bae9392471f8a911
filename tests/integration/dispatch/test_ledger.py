"""The bridge on a real SQLite file: while others hold it, when the clock jumps, and when a backup was put back."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned, Effect, ToExecutor, ToWorker
from edge_mqtt.broker_bridge.dispatch.core.view import DispatchView
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger
from edge_mqtt.broker_bridge.dispatch.ledger.sql import BUSY_TIMEOUT_S, SqlLedger
from edge_mqtt.broker_bridge.dispatch.retention import Retention, SteadyClock
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiResult, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.relay import Relay
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    Finished,
    JobAccepted,
    JobFinished,
    JobSpec,
    Message,
    Outcome,
    Presence,
    ResultAck,
    WorkerState,
    WorkloadType,
)

EXECUTOR, WORKER, JOB = ExecutorName("e"), WorkerName("w"), JobId("j")
DAY_S = 86_400.0
M = TypeVar("M", bound=Message)


@dataclass
class Clock:
    """Unix time and steady time, in seconds."""

    wall: float = 1.7e9
    steady: float = 100.0

    def pass_time(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def unix(self) -> SteadyClock:
        """Return what a bridge that starts now goes by."""
        return SteadyClock(lambda: self.wall, lambda: self.steady)


@dataclass
class Bridge:
    service: DispatchService
    view: DispatchView
    ledger: AsyncLedger
    clock: SteadyClock
    effects: list[Effect] = field(default_factory=list)
    performed: asyncio.Event = field(default_factory=asyncio.Event)

    def perform(self, effect: Effect) -> None:
        self.effects.append(effect)
        self.performed.set()

    async def until(self, wanted: Callable[[Effect], bool]) -> Effect:
        while True:
            for effect in self.effects:
                if wanted(effect):
                    return effect
            self.performed.clear()
            await asyncio.wait_for(self.performed.wait(), 20)

    async def said(self, kind: type[M]) -> M:
        def is_it(effect: Effect) -> bool:
            return isinstance(effect, ToExecutor | ToWorker | Assigned) and isinstance(effect.message, kind)

        effect = await self.until(is_it)
        message = effect.message  # type: ignore[union-attr]  # one of those three
        assert isinstance(message, kind)
        return message

    async def finish_a_job(self) -> None:
        """Bring a job to its end, of which nobody has heard yet."""
        await self.service.commit(submitted())
        await self.service.commit(seen())
        assert await self.service.ask_start(WORKER, JOB, Fence(1), "host:1") is None
        await self.service.commit(result(exit_code=0))

    async def purge(self, retention_s: float = DAY_S) -> None:
        await Retention(self.ledger, self.service, retention_s=retention_s, clock=self.clock).purge()

    async def known(self) -> list[JobId]:
        return [job.id for job in await self.ledger.run(Ledger.get, [JOB])]


@asynccontextmanager
async def running(
    path: Path, clock: Clock | None = None, busy_timeout_s: float = BUSY_TIMEOUT_S
) -> AsyncIterator[Bridge]:
    unix = (clock or Clock()).unix()
    ledger = AsyncLedger(SqlLedger(f"sqlite:///{path}", unix, busy_timeout_s=busy_timeout_s))
    dispatcher = Dispatcher(DispatchSettings())
    service = DispatchService(dispatcher, ledger, ChangeFeed(), ledger_retry_s=0.01)
    await service.load()
    bridge = Bridge(service, dispatcher.view, ledger, unix)
    loop = asyncio.create_task(service.run(bridge.perform, lambda _: None))
    try:
        yield bridge
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await ledger.close()


def submitted() -> events.Submitted:
    spec = JobSpec(job_id=JOB, type=WorkloadType.TASK, queue="q", workload={"ti": {"id": "ti-1"}})
    return events.Submitted(executor=EXECUTOR, job=spec, token="t")


def seen(incarnation: str = "i") -> events.WorkerSeen:
    presence = Presence(incarnation=incarnation, connection=1, state=WorkerState.ONLINE, queues=("q",), concurrency=1)
    return events.WorkerSeen(worker=WORKER, presence=presence)


def result(exit_code: int) -> events.ResultReported:
    return events.ResultReported(worker=WORKER, result=Finished(job_id=JOB, fence=Fence(1), exit_code=exit_code))


# ---------------------------------------------------------------- others hold the file


def test_a_ledger_that_another_process_holds_delays_what_is_accepted_and_loses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with running(tmp_path / "ledger.db", busy_timeout_s=0.05) as bridge:
            with closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as stranger:
                stranger.execute("BEGIN EXCLUSIVE")
                for _ in range(3):
                    with pytest.raises(Exception, match="another process holds it"):
                        await bridge.service.commit(submitted())
                bridge.service.post(seen())
                assert "another process holds it" in (bridge.service.ledger_problem or "")
                assert bridge.effects == []
                stranger.execute("ROLLBACK")
            bridge.service.post(submitted())
            await bridge.said(JobAccepted)
            await bridge.until(lambda effect: isinstance(effect, Assigned))
            assert bridge.service.ledger_problem is None

    asyncio.run(test())
    lines = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    assert len(lines) == 2
    assert "nothing is accepted" in lines[0]
    assert lines[1] == "the ledger takes entries again"


# ---------------------------------------------------------------- what is over is forgotten


def test_a_final_event_that_nobody_fetches_is_given_up_with_a_line_and_its_job_is_deleted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        clock = Clock()
        async with running(tmp_path / "ledger.db", clock) as bridge:
            await bridge.finish_a_job()
            clock.pass_time(DAY_S - 1)
            await bridge.purge()
            assert await bridge.known() == [JOB]
            bridge.effects.clear()
            await bridge.service.commit(events.ExecutorConnected(executor=EXECUTOR))
            assert (await bridge.said(JobFinished)).outcome is Outcome.SUCCESS
            clock.pass_time(2)
            await bridge.purge()
            assert await bridge.known() == []
        assert "1 final events were never fetched" in caplog.text

    asyncio.run(test())


def test_a_clock_that_is_set_forward_gives_up_no_event_and_deletes_no_job(tmp_path: Path) -> None:
    async def test() -> None:
        clock = Clock()
        async with running(tmp_path / "ledger.db", clock) as bridge:
            await bridge.finish_a_job()
            clock.wall += 365 * DAY_S
            await bridge.purge()
            assert await bridge.known() == [JOB]
            await bridge.service.commit(events.EventAcked(executor=EXECUTOR, job_id=JOB))
            await bridge.purge()
            assert await bridge.known() == [JOB]

    asyncio.run(test())


def test_a_clock_that_is_set_back_keeps_no_job_longer(tmp_path: Path) -> None:
    async def test() -> None:
        clock = Clock()
        async with running(tmp_path / "ledger.db", clock) as bridge:
            await bridge.finish_a_job()
            clock.wall -= 365 * DAY_S
            clock.pass_time(DAY_S + 1)
            await bridge.purge()
            assert await bridge.known() == []

    asyncio.run(test())


# ---------------------------------------------------------------- a backup was put back


class AirflowThatHasMovedOn(ExecutionApiClient):
    """Refuses to start what is over."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9/execution/")

    async def call(self, call: ApiCall, *, patient: bool = True) -> ApiResult:
        detail = {"reason": "invalid_state", "message": "TI was not in a state where it could be marked as running"}
        return ApiResult(status=409, headers={}, body=json.dumps({"detail": detail}).encode())


class NoKey:
    def issue_token(self, task_instance_id: str) -> str | None:
        return None


def test_a_waiting_job_of_a_restored_ledger_that_was_done_long_ago_does_not_run_again(tmp_path: Path) -> None:
    path, backup = tmp_path / "ledger.db", tmp_path / "backup.db"

    async def test() -> None:
        async with running(path) as bridge:
            await bridge.service.commit(submitted())
        shutil.copy(path, backup)
        async with running(path) as bridge:
            await bridge.finish_a_job()
            await bridge.service.commit(events.EventAcked(executor=EXECUTOR, job_id=JOB))
        async with running(backup) as bridge:
            await bridge.service.commit(seen("another day"))
            await bridge.until(lambda effect: isinstance(effect, Assigned))
            airflow = AirflowThatHasMovedOn()
            relay = Relay(airflow, bridge.view, bridge.service, NoKey())
            run = ApiRequest(
                request_id="r",
                job_id=JOB,
                fence=Fence(1),
                method="PATCH",
                target="task-instances/ti-1/run",
                body=b'{"hostname": "edge", "pid": 7}',
            )
            refusal = await relay.answer(WORKER, run)
            assert refusal is not None
            assert refusal.status == 409
            await bridge.service.commit(result(exit_code=1))
            end = await bridge.said(JobFinished)
            assert end.outcome is Outcome.CANCELLED
            assert end.detail.startswith("invalid_state: TI was not in a state")
            await airflow.aclose()

    asyncio.run(test())


def test_a_running_job_of_a_restored_ledger_ends_when_its_worker_comes_without_it(tmp_path: Path) -> None:
    path, backup = tmp_path / "ledger.db", tmp_path / "backup.db"

    async def test() -> None:
        async with running(path) as bridge:
            await bridge.service.commit(submitted())
            await bridge.service.commit(seen())
            assert await bridge.service.ask_start(WORKER, JOB, Fence(1), "host:1") is None
        shutil.copy(path, backup)
        async with running(backup) as bridge:
            await bridge.service.commit(seen("another day"))
            assert (await bridge.said(JobFinished)).outcome is Outcome.LOST
            bridge.effects.clear()
            # What the worker still says of it is acknowledged and changes nothing.
            await bridge.service.commit(result(exit_code=0))
            await bridge.said(ResultAck)
            assert [type(effect) for effect in bridge.effects] == [ToWorker]

    asyncio.run(test())
