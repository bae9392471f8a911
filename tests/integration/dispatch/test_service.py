"""The loop around the decisions: nothing is said before it is stored, and nothing is lost when it cannot be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Concatenate, ParamSpec, TypeVar

import pytest

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned, Effect, ToExecutor, ToWorker
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.core.view import DispatchView
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger, LedgerFull, LedgerTaken
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    CancelAck,
    HeldJob,
    JobAccepted,
    JobSpec,
    Outcome,
    Presence,
    PresenceAck,
    ReportedJobState,
    WorkerState,
    WorkloadType,
)

EXECUTOR = ExecutorName("e")
WORKER = WorkerName("w")
P = ParamSpec("P")
T = TypeVar("T")


class MovableDisk(MemoryLedger):
    """A ledger whose disk can be full."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.taken = False
        self.refused = threading.Event()
        self.probed = threading.Event()
        self.commits = 0

    def commit(self, changes: Sequence[Job]) -> None:
        if self.taken:
            raise LedgerTaken("another bridge has it")
        if self.full:
            self.refused.set()
            raise LedgerFull("the disk is full: free space")
        self.commits += 1
        super().commit(changes)

    def probe(self) -> None:
        if self.taken:
            raise LedgerTaken("another bridge has it")
        if self.full:
            raise LedgerFull("the disk is still full: free space")
        self.probed.set()


@dataclass
class Running:
    service: DispatchService
    view: DispatchView
    records: AsyncLedger
    ledger: MovableDisk
    effects: list[Effect] = field(default_factory=list)
    performed: asyncio.Event = field(default_factory=asyncio.Event)
    ended: list[JobId] = field(default_factory=list)

    def perform(self, effect: Effect) -> None:
        self.effects.append(effect)
        self.performed.set()

    async def ledger_refused(self) -> None:
        await asyncio.to_thread(self.ledger.refused.wait, 10)

    async def until(self, wanted: Callable[[Effect], bool]) -> Effect:
        while True:
            for effect in self.effects:
                if wanted(effect):
                    return effect
            self.performed.clear()
            await asyncio.wait_for(self.performed.wait(), 10)


@asynccontextmanager
async def running(ledger: MovableDisk | None = None) -> AsyncIterator[Running]:
    disk = ledger or MovableDisk()
    dispatcher, records = Dispatcher(DispatchSettings()), AsyncLedger(disk)
    service = DispatchService(dispatcher, records, ChangeFeed(), ledger_retry_s=0.01)
    await service.load()
    state = Running(service, dispatcher.view, records, disk)
    loop = asyncio.create_task(service.run(state.perform, state.ended.append))
    try:
        yield state
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


def submitted(job_id: str = "j") -> events.Submitted:
    job = JobSpec(job_id=JobId(job_id), type=WorkloadType.TASK, queue="q")
    return events.Submitted(executor=EXECUTOR, job=job, token="t")


def seen(sequence: int = 0, *jobs: HeldJob) -> events.WorkerSeen:
    presence = Presence(
        incarnation="i",
        connection=1,
        sequence=sequence,
        state=WorkerState.ONLINE,
        queues=("q",),
        concurrency=1,
        jobs=jobs,
    )
    return events.WorkerSeen(worker=WORKER, presence=presence)


def is_acceptance(effect: Effect) -> bool:
    return isinstance(effect, ToExecutor) and isinstance(effect.message, JobAccepted)


def test_a_job_is_in_the_ledger_before_its_acceptance_is_said() -> None:
    async def test() -> None:
        async with running() as bridge:
            bridge.service.post(submitted())
            await bridge.until(is_acceptance)
            assert [job.id for job in bridge.ledger.load_live()] == ["j"]

    asyncio.run(test())


def test_a_submission_that_comes_again_after_its_job_is_forgotten_runs_nothing_and_harms_no_new_one() -> None:
    async def test() -> None:
        disk = MovableDisk()
        old = Job(spec=submitted("old").job, executor=EXECUTOR, lease_s=900.0, sequence=7)
        disk.commit([replace(old, state=CentralJobState.FINISHED, outcome=Outcome.SUCCESS, event_acked=True)])
        async with running(disk) as bridge:
            await bridge.service.commit(seen())
            bridge.service.post(submitted("old"))
            await bridge.service.commit(submitted("new"))
            assigned = [effect.message.job.job_id for effect in bridge.effects if isinstance(effect, Assigned)]
            accepted = [effect.message.job_id for effect in bridge.effects if is_acceptance(effect)]  # type: ignore[union-attr]  # it is one
            assert assigned == ["new"]
            assert accepted == ["old", "new"]
            (kept,) = disk.get([JobId("old")])
            assert (kept.state, kept.sequence) == (CentralJobState.FINISHED, 7)

    asyncio.run(test())


class CountedCalls(AsyncLedger):
    """Counts the ways to the ledger."""

    calls = 0

    async def run(self, method: Callable[Concatenate[Ledger, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        self.calls += 1
        return await super().run(method, *args, **kwargs)


def test_a_new_job_takes_one_way_to_the_ledger() -> None:
    async def test() -> None:
        ledger = CountedCalls(MovableDisk())
        service = DispatchService(Dispatcher(DispatchSettings()), ledger, ChangeFeed())
        await service.load()
        loop = asyncio.create_task(service.run(lambda _: None, lambda _: None))
        before = ledger.calls
        await service.commit(submitted())
        assert ledger.calls - before == 1
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)

    asyncio.run(test())


def test_what_happens_during_a_commit_is_committed_together() -> None:
    async def test() -> None:
        async with running() as bridge:
            for number in range(200):
                bridge.service.post(submitted(f"j{number}"))
            await bridge.until(lambda effect: is_acceptance(effect) and effect.message.job_id == "j199")  # type: ignore[union-attr]
            assert bridge.ledger.commits <= 2

    asyncio.run(test())


def test_a_full_disk_accepts_nothing_says_so_and_goes_on_when_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with running() as bridge:
            bridge.ledger.full = True
            with pytest.raises(LedgerFull, match="free space"):
                await bridge.service.commit(submitted())
            assert bridge.effects == []
            assert bridge.service.ledger_problem == "the disk is full: free space"
            assert bridge.view.get_job(JobId("j")) is None
            bridge.ledger.full = False
            await bridge.service.commit(submitted())
            await bridge.until(is_acceptance)
            assert bridge.service.ledger_problem is None

    asyncio.run(test())
    assert [record.getMessage() for record in caplog.records] == [
        "nothing is accepted: the disk is full: free space",
        "the ledger takes entries again",
    ]


def test_a_ledger_that_has_recovered_is_noticed_although_nothing_happens() -> None:
    async def test() -> None:
        async with running() as bridge:
            bridge.ledger.full = True
            before = bridge.ledger.commits
            with pytest.raises(LedgerFull):
                await bridge.service.commit(submitted())
            problem = bridge.service.ledger_problem
            assert problem is not None
            bridge.ledger.full = False
            assert await asyncio.to_thread(bridge.ledger.probed.wait, 10)
            # The ledger's one thread answers this after the probe.
            await bridge.records.run(Ledger.get, [JobId("another")])
            assert bridge.service.ledger_problem is None
            assert bridge.ledger.commits == before

    asyncio.run(test())


def test_a_bridge_whose_ledger_was_taken_while_it_was_away_stops() -> None:
    async def test() -> None:
        disk = MovableDisk()
        service = DispatchService(
            Dispatcher(DispatchSettings()), AsyncLedger(disk), ChangeFeed(), ledger_retry_s=0.01
        )
        await service.load()
        disk.full = True
        service.post(submitted())
        loop = asyncio.create_task(service.run(lambda _: None, lambda _: None))
        await asyncio.to_thread(disk.refused.wait, 10)
        disk.taken = True
        with pytest.raises(LedgerTaken):
            await asyncio.wait_for(loop, 10)

    asyncio.run(test())


def test_a_worker_s_hello_is_not_lost_with_a_commit_that_failed() -> None:
    async def test() -> None:
        async with running() as bridge:
            await bridge.service.commit(submitted())
            bridge.ledger.full = True
            bridge.service.post(seen())
            await bridge.ledger_refused()
            bridge.ledger.full = False
            await bridge.until(lambda effect: isinstance(effect, Assigned))

    asyncio.run(test())


def test_a_start_is_on_disk_when_it_is_granted_and_refused_when_it_cannot_be() -> None:
    async def test() -> None:
        async with running() as bridge:
            bridge.service.post(seen())
            bridge.service.post(submitted())
            effect = await bridge.until(lambda effect: isinstance(effect, Assigned))
            assert isinstance(effect, Assigned)
            bridge.ledger.full = True
            with pytest.raises(LedgerFull):
                await bridge.service.ask_start(WORKER, JobId("j"), effect.message.fence, "host:1")
            bridge.ledger.full = False
            assert await bridge.service.ask_start(WORKER, JobId("j"), effect.message.fence, "host:1") is None
            (job,) = bridge.ledger.load_live()
            assert (job.state, job.starter) == (CentralJobState.RUNNING, "host:1")
            refusal = await bridge.service.ask_start(WORKER, JobId("j"), Fence(99), "host:1")
            assert refusal is not None

    asyncio.run(test())


def test_the_loop_ends_when_it_is_told_to_also_when_an_event_comes_in_the_same_moment() -> None:
    async def test() -> None:
        service = DispatchService(Dispatcher(DispatchSettings()), AsyncLedger(MovableDisk()), ChangeFeed())
        await service.load()
        service.post(seen())
        loop = asyncio.create_task(service.run(lambda _: None, lambda _: None))
        while service._arrived.is_set():  # noqa: ASYNC110 -- nothing but the loop under test knows when it waits
            await asyncio.sleep(0)
        service.post(seen())
        await asyncio.sleep(0)
        loop.cancel()
        done, _ = await asyncio.wait({loop}, timeout=5)
        assert done == {loop}

    asyncio.run(test())


def test_a_restarted_bridge_goes_on_with_what_the_ledger_has() -> None:
    async def test() -> None:
        disk = MovableDisk()
        async with running(disk) as bridge:
            await bridge.service.commit(submitted())
        async with running(disk) as bridge:
            bridge.service.post(seen())
            effect = await bridge.until(lambda effect: isinstance(effect, Assigned))
            assert isinstance(effect, Assigned)
            assert effect.message.job.job_id == "j"

    asyncio.run(test())


def test_workers_keep_their_leases_while_the_ledger_takes_nothing() -> None:
    def is_confirmation(effect: Effect) -> bool:
        return (
            isinstance(effect, ToWorker) and isinstance(effect.message, PresenceAck) and effect.message.sequence == 1
        )

    async def test() -> None:
        async with running() as bridge:
            bridge.service.post(seen())
            bridge.service.post(submitted())
            await bridge.until(lambda effect: isinstance(effect, Assigned))
            assert await bridge.service.ask_start(WORKER, JobId("j"), Fence(1), "host:1") is None
            bridge.ledger.full = True
            bridge.service.post(submitted("k"))
            bridge.service.post(seen(1, HeldJob(job_id=JobId("j"), fence=Fence(1), state=ReportedJobState.RUNNING)))
            await bridge.until(is_confirmation)
            assert bridge.service.ledger_problem is not None

    asyncio.run(test())


def test_a_cancellation_is_not_acknowledged_before_it_is_stored() -> None:
    def is_ack(effect: Effect) -> bool:
        return isinstance(effect, ToExecutor) and isinstance(effect.message, CancelAck)

    async def test() -> None:
        async with running() as bridge:
            await bridge.service.commit(submitted())
            bridge.ledger.full = True
            cancel = events.CancelAsked(executor=EXECUTOR, job_id=JobId("j"))
            bridge.service.post(cancel)
            await bridge.ledger_refused()
            assert not any(map(is_ack, bridge.effects))
            bridge.ledger.full = False
            bridge.service.post(cancel)
            await bridge.until(is_ack)
            assert bridge.ledger.load_live() == []
            assert bridge.ended == ["j"]

    asyncio.run(test())


def test_a_bridge_whose_ledger_another_has_taken_stops() -> None:
    async def test() -> None:
        disk = MovableDisk()
        service = DispatchService(
            Dispatcher(DispatchSettings()), AsyncLedger(disk), ChangeFeed(), ledger_retry_s=0.01
        )
        await service.load()
        disk.taken = True
        service.post(submitted())
        with pytest.raises(LedgerTaken):
            await asyncio.wait_for(service.run(lambda _: None, lambda _: None), 10)

    asyncio.run(test())
