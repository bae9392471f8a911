"""One event that cannot be decided, stored or done fails alone: with one line, and an answer where there is one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned, Effect, ToExecutor
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError, LedgerRefused
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.dispatch.service import DispatchService, EventFailed
from edge_mqtt.broker_bridge.protocol.errors import CannotBeSent
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    JobAccepted,
    JobFinished,
    JobSpec,
    Outcome,
    Presence,
    WorkerState,
    WorkloadType,
)

EXECUTOR, WORKER = ExecutorName("e"), WorkerName("w")


def deep(levels: int) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for _ in range(levels - 1):
        document = {"x": document}
    return document


def submitted(job_id: str, **facts: Any) -> events.Submitted:
    spec = dict(JobSpec(job_id=JobId(job_id), type=WorkloadType.TASK, queue="q"), **facts)
    return events.Submitted(executor=EXECUTOR, job=JobSpec.stored(spec), token="t")


def seen(sequence: int = 0) -> events.WorkerSeen:
    presence = Presence(
        incarnation="i",
        connection=1,
        sequence=sequence,
        state=WorkerState.ONLINE,
        queues=("q",),
        concurrency=9,
    )
    return events.WorkerSeen(worker=WORKER, presence=presence)


class Refusing(MemoryLedger):
    """Takes every job but those whose id begins with ``odd``."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._error = error
        self.commits = 0

    def commit(self, jobs: Sequence[Job]) -> None:
        self.commits += 1
        if any(job.id.startswith("odd") for job in jobs):
            raise self._error
        super().commit(jobs)


class Stage:
    """A service that runs, and what it has done."""

    def __init__(self, service: DispatchService) -> None:
        self.service = service
        self.effects: list[Effect] = []
        self.cannot_do: Callable[[Effect], bool] = lambda _effect: False
        self._performed = asyncio.Event()

    def perform(self, effect: Effect) -> None:
        if self.cannot_do(effect):
            raise CannotBeSent("an assign message cannot be sent: it is too deep")
        self.effects.append(effect)
        self._performed.set()

    def told(self, kind: type[Any]) -> list[Any]:
        return [one.message for one in self.effects if isinstance(one, ToExecutor) and isinstance(one.message, kind)]

    async def until(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not wanted():
                self._performed.clear()
                await self._performed.wait()


@asynccontextmanager
async def running(ledger: Any) -> AsyncIterator[Stage]:
    service = DispatchService(Dispatcher(DispatchSettings()), AsyncLedger(ledger), ChangeFeed(), ledger_retry_s=0.01)
    await service.load()
    stage = Stage(service)
    loop = asyncio.create_task(service.run(stage.perform, lambda _job: None))
    try:
        yield stage
        assert not loop.done(), "the loop has ended"
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


@pytest.mark.parametrize(
    "error", [LedgerRefused("ledger x: the database cannot store a value of the job"), OverflowError("too large")]
)
@pytest.mark.parametrize("at", [0, 57, 199])
def test_of_a_batch_all_are_accepted_but_the_one_that_cannot_be_stored(
    error: Exception, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        ledger = Refusing(error)
        async with running(ledger) as stage:
            names = ["odd" if number == at else f"j{number}" for number in range(200)]
            for name in names:
                stage.service.post(submitted(name))
            await stage.until(lambda: len(stage.told(JobAccepted)) == 199 and bool(stage.told(JobFinished)))
            (failure,) = stage.told(JobFinished)
            assert (failure.job_id, failure.outcome) == ("odd", Outcome.FAILED)
            assert str(error) in failure.detail
            assert sorted(job.id for job in ledger.load_live()) == sorted(set(names) - {"odd"})
            assert stage.service.ledger_problem is None
            assert ledger.commits < 40, "the one is found by halves"

    with caplog.at_level(logging.WARNING):
        asyncio.run(test())
    (line,) = caplog.records
    assert vars(line)["action"] == "event_failed"
    assert "\n" not in line.getMessage()


def test_whoever_waits_for_the_event_is_told_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with running(Refusing(OverflowError("too large"))) as stage:
            told: list[str] = []
            stage.service.post(submitted("j"))
            stage.service.post(seen(), told.append)
            await stage.until(lambda: any(isinstance(effect, Assigned) for effect in stage.effects))
            assert told == []

            def broken(*_: object) -> None:
                raise RuntimeError("a bug of ours")

            for kind in (events.StartAsked, events.LogOpened, events.JobAccepted):
                monkeypatch.setitem(rules, kind, broken)
            refusal = await stage.service.ask_start(WORKER, JobId("j"), Fence(1), "host:1")
            assert refusal is not None
            assert "could not decide" in refusal
            assert "a bug of ours" in refusal
            with pytest.raises(EventFailed, match=r"RuntimeError at test_failing_events\.py:"):
                await stage.service.commit(events.LogOpened(job_id=JobId("j"), base=1))
            accepted = events.JobAccepted(worker=WORKER, job_id=JobId("j"), fence=Fence(1))
            stage.service.post(accepted, told.append)
            await stage.service.commit(seen(1))
            (line,) = told
            assert "a bug of ours" in line

    from edge_mqtt.broker_bridge.dispatch.core import batch

    rules: Any = batch._RULES
    asyncio.run(test())


def test_a_tick_that_fails_is_not_tried_again_at_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        from edge_mqtt.broker_bridge.dispatch.core import batch

        failures = 0

        def broken(*_: object) -> None:
            nonlocal failures
            failures += 1
            raise RuntimeError("a bug of ours")

        async with running(MemoryLedger()) as stage:
            rules: Any = batch._RULES
            monkeypatch.setitem(rules, events.Tick, broken)
            stage.service.post(events.Tick())
            await stage.service.commit(submitted("j"))
            assert failures == 2, "together with the other, and alone"

    asyncio.run(test())
    assert [vars(record)["action"] for record in caplog.records if record.levelno >= logging.WARNING] == [
        "event_failed"
    ]


def test_an_assignment_that_cannot_be_sent_fails_its_job_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        ledger = MemoryLedger()
        async with running(ledger) as stage:
            stage.cannot_do = lambda effect: isinstance(effect, Assigned) and effect.message.job.job_id == "odd"
            stage.service.post(seen())
            for name in ("before", "odd", "after"):
                stage.service.post(submitted(name))
            await stage.until(lambda: bool(stage.told(JobFinished)))
            (failure,) = stage.told(JobFinished)
            assert (failure.job_id, failure.outcome) == ("odd", Outcome.FAILED)
            assert failure.detail.endswith("an assign message cannot be sent: it is too deep")
            assigned = [effect.message.job.job_id for effect in stage.effects if isinstance(effect, Assigned)]
            assert sorted(assigned) == ["after", "before"]

    with caplog.at_level(logging.WARNING):
        asyncio.run(test())
    assert [vars(record)["action"] for record in caplog.records] == ["effect_failed"]


def test_a_job_from_before_the_bounds_fails_at_the_start_and_the_bridge_serves(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    before = SqlLedger(url)
    spec = submitted("deep", workload=deep(300)).job
    before.commit([Job(spec=spec, executor=EXECUTOR, lease_s=900, token="t", sequence=1)])
    before.commit([Job(spec=submitted("fine").job, executor=EXECUTOR, lease_s=900, token="t", sequence=2)])
    before.close()

    async def test() -> None:
        async with running(SqlLedger(url)) as stage:
            stage.service.post(seen())
            await stage.until(lambda: bool(stage.told(JobFinished)))
            await stage.until(lambda: any(isinstance(effect, Assigned) for effect in stage.effects))
            (failure,) = stage.told(JobFinished)
            assert (failure.job_id, failure.outcome) == ("deep", Outcome.FAILED)
            assert "nested more than 100 levels deep" in failure.detail
            (assigned,) = [effect.message.job.job_id for effect in stage.effects if isinstance(effect, Assigned)]
            assert assigned == "fine"

    asyncio.run(test())


def test_a_full_ledger_is_not_the_event_s_fault() -> None:
    assert not issubclass(EventFailed, LedgerError)
    assert LedgerRefused("x").retryable is False
