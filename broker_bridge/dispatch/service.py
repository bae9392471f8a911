"""The loop around the dispatcher's decisions: take events, decide, commit, then speak.

Everything that happened while the last commit was under way is decided and committed together, so a busy bridge pays
one disk sync for many. When a commit fails, the decisions are undone and nothing is said. Who waits for an answer is
told; jobs and results are held by their senders, who send them again; everything else is decided once more later.
Only what needs no commit goes on: workers keep their leases for as long as the ledger takes to recover.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.batch import Batch
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher
from edge_mqtt.broker_bridge.dispatch.core.effects import Effect, StartDecided
from edge_mqtt.broker_bridge.dispatch.core.events import Event
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError, LedgerTaken
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogSelector

log = logging.getLogger(__name__)

#: Seconds to wait after a failed commit before taking events again.
LEDGER_RETRY_S: Final = 1.0
#: Events whose senders hold what they are about until it is acknowledged. Not kept when the ledger takes nothing, so
#: that a full disk does not fill the memory too.
REPEATED_BY_SENDER: Final = (events.Submitted, events.ResultReported, events.CancelAsked, events.AdoptAsked)
#: Events in one transaction at most, which bounds how long the first of them waits.
BATCH_EVENTS: Final = 512


@dataclass(slots=True)
class _Waiting:
    event: Event
    committed: asyncio.Future[None] | None


class DispatchService:
    """Owns the dispatcher and the ledger. All methods belong to one event loop."""

    def __init__(self, dispatcher: Dispatcher, ledger: AsyncLedger, changes: ChangeFeed) -> None:
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._changes = changes
        self._events: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._starts: dict[str, asyncio.Future[str | None]] = {}
        self._start_number = 0
        #: Why the ledger takes nothing at the moment; None when it does.
        self.ledger_problem: str | None = None

    async def load(self) -> int:
        """Take over what the ledger has; return how many jobs are live."""
        jobs = await self._ledger.load_live()
        last = await self._ledger.max_sequence()
        self._dispatcher.load(jobs, time.monotonic(), last_sequence=last)
        return len(jobs)

    def post(self, event: Event) -> None:
        """Queue an event."""
        self._put(event, None)

    async def commit(self, event: Event) -> None:
        """Queue an event and wait until what it changed is on disk.

        :raises LedgerError: it could not be stored.
        """
        committed = asyncio.get_running_loop().create_future()
        self._put(event, committed)
        await committed

    def _put(self, event: Event, committed: asyncio.Future[None] | None) -> None:
        self._events.append(_Waiting(event, committed))
        self._arrived.set()

    async def run(self, perform: Callable[[Effect], None], ended: Callable[[JobId], None]) -> None:
        """Decide, and have ``perform`` do what was decided, until cancelled.

        :param ended: told of every job that has ended.
        :raises LedgerTaken: what this bridge believes is no longer what the ledger has.
        """
        while True:
            await self._wait()
            batch = [self._events.popleft() for _ in range(min(len(self._events), BATCH_EVENTS))]
            batch = batch or [_Waiting(events.Tick(), None)]
            await self._decide(batch, perform, ended)
            if self.ledger_problem is not None:
                await self._probe()

    async def _wait(self) -> None:
        if self._events:
            return
        self._arrived.clear()
        deadline = self._dispatcher.next_deadline()
        wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self.ledger_problem is not None:
            wait_s = LEDGER_RETRY_S if wait_s is None else min(wait_s, LEDGER_RETRY_S)
        # Not wait_for: in Python 3.11 it forgets to be cancelled when the event comes in the same moment.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._arrived.wait()

    async def _decide(
        self, waiting: list[_Waiting], perform: Callable[[Effect], None], ended: Callable[[JobId], None]
    ) -> None:
        try:
            with self._dispatcher.batch() as batch:
                await self._decide_and_store(batch, [one.event for one in waiting])
        except LedgerTaken:
            raise
        except LedgerError as error:
            await self._refuse(waiting, error, perform)
            return
        if batch.changed:
            self._recovered()
        for one in waiting:
            if one.committed is not None and not one.committed.done():
                one.committed.set_result(None)
        self._perform(batch.effects, perform)
        for job in batch.changed.values():
            if job.state is CentralJobState.FINISHED:
                ended(job.id)
        if batch.changed:
            self._changes.notify()

    def _perform(self, effects: Iterable[Effect], perform: Callable[[Effect], None]) -> None:
        for effect in effects:
            if isinstance(effect, StartDecided):
                self._start_decided(effect)
            else:
                perform(effect)

    async def _decide_and_store(self, batch: Batch, together: list[Event]) -> None:
        missing, submitted = set[JobId](), set[JobId]()
        for event in together:
            (submitted if isinstance(event, events.Submitted) else missing).update(batch.missing(event))
        known = await self._ledger.get(missing) if missing else []
        _decide_each(batch, together, known)
        # A submission's job is nearly always new. That is made sure of on the way into the ledger, not by a way of
        # its own before; when it is not so, everything is decided once more.
        new = (submitted - missing) & batch.changed.keys()
        repeated = await self._ledger.add(list(batch.changed.values()), new) if batch.changed else []
        if repeated:
            batch.undo()
            _decide_each(batch, together, [*known, *repeated])
            await self._ledger.commit(list(batch.changed.values()))

    async def _probe(self) -> None:
        """Find out whether the ledger takes entries again though nothing is to be stored: somebody watches for that.

        :raises LedgerTaken: somebody else has it now.
        """
        try:
            await self._ledger.probe()
        except LedgerTaken:
            raise
        except LedgerError as error:
            self.ledger_problem = str(error)
        else:
            self._recovered()

    def _recovered(self) -> None:
        if self.ledger_problem is not None:
            log.warning("the ledger takes entries again", extra={"action": "ledger_recovered"})
            self.ledger_problem = None

    async def _refuse(self, batch: list[_Waiting], error: LedgerError, perform: Callable[[Effect], None]) -> None:
        if self.ledger_problem is None:
            log.error("nothing is accepted: %s", error, extra={"action": "ledger_failed"})
        self.ledger_problem = str(error)
        again: list[_Waiting] = []
        for waiting in batch:
            asker = waiting.committed or self._take_start(waiting.event)
            if asker is not None:
                if not asker.done():
                    asker.set_exception(type(error)(str(error)))
            elif not self._decided_without_ledger(waiting.event, perform):
                again.append(waiting)
        self._events.extendleft(reversed(again))
        # What the events that were dealt with here would have brought with them is looked at again.
        self._events.append(_Waiting(events.Tick(), None))
        await asyncio.sleep(LEDGER_RETRY_S)

    def _decided_without_ledger(self, event: Event, perform: Callable[[Effect], None]) -> bool:
        """Confirm a worker's lease if that changes no job, and drop what is repeated; tell whether it was that."""
        if isinstance(event, (*REPEATED_BY_SENDER, events.Tick)):
            return True
        if not isinstance(event, events.WorkerSeen):
            return False
        decision = self._dispatcher.handle_unless_changing(event, time.monotonic())
        if decision is None:
            return False
        self._perform(decision.effects, perform)
        return True

    # ------------------------------------------------------------ what the relay asks

    def job(self, job_id: JobId) -> Job | None:
        """Return a live job."""
        return self._dispatcher.view.get_job(job_id)

    def is_superseded(self, job_id: JobId) -> bool:
        """Tell whether Airflow has queued the task of an unfinished job again since."""
        return self._dispatcher.view.is_superseded(job_id)

    def is_reachable(self, job: Job) -> bool:
        """Tell whether the machine that has, or had, ``job`` can be reached, as far as we know."""
        return self._dispatcher.view.is_reachable(job)

    def task_ended(self, job_id: JobId, reason: str) -> None:
        """Stop a job that Airflow does not want to run any more."""
        self.post(events.TaskEnded(job_id=job_id, reason=reason))

    def start_refused(self, job_id: JobId, reason: str) -> None:
        """Note that Airflow refused a job's start."""
        self.post(events.StartRefused(job_id=job_id, reason=reason))

    def is_served(self, queue: str) -> bool:
        """Tell whether a connected worker serves ``queue``."""
        return self._dispatcher.view.is_served(queue)

    def running_jobs(self) -> list[Job]:
        """Return the jobs that run."""
        return list(self._dispatcher.view.running_jobs())

    async def ask_start(self, worker: WorkerName, job_id: JobId, fence: Fence, starter: str) -> str | None:
        """Record the start of a job's user code; return None when it may start, else why not.

        :raises LedgerError: the start could not be recorded.
        """
        self._start_number += 1
        request_id = str(self._start_number)
        decided: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._starts[request_id] = decided
        self.post(
            events.StartAsked(worker=worker, job_id=job_id, fence=fence, starter=starter, request_id=request_id)
        )
        return await decided

    def _take_start(self, event: Event) -> asyncio.Future[str | None] | None:
        return self._starts.pop(event.request_id, None) if isinstance(event, events.StartAsked) else None

    def _start_decided(self, effect: StartDecided) -> None:
        start = self._starts.pop(effect.request_id, None)
        if start is not None and not start.done():
            start.set_result(None if effect.granted else effect.reason)

    async def token_refreshed(self, job_id: JobId, token: str) -> None:
        """Store the job's newer token."""
        await self.commit(events.TokenRefreshed(job_id=job_id, token=token))

    # ------------------------------------------------------------ what the logs ask

    async def record(self, job_id: JobId) -> Job | None:
        """Return the job, finished or not."""
        live = self._dispatcher.view.get_job(job_id)
        if live is not None:
            return live
        return next(iter(await self._ledger.get([job_id])), None)

    async def unsaid(self) -> list[JobId]:
        """Return the jobs that have begun, whose log stays on its worker, and of which the log does not say so."""
        return await self._ledger.unsaid()

    async def same_log(self, log_path: str, but: JobId) -> list[Job]:
        """Return the jobs that write one log; ``but`` may be left out."""
        return await self._ledger.same_log(log_path, but)

    async def log_opened(self, job_id: JobId, base: int) -> None:
        """Store where the job's log begins in its file."""
        await self.commit(events.LogOpened(job_id=job_id, base=base))

    async def find(self, selector: LogSelector, limit: int) -> list[Job]:
        """Return matching jobs, newest first."""
        return await self._ledger.find(selector, limit)

    async def newest_run(self, dag_id: str) -> str | None:
        """Return the run of ``dag_id`` whose job was queued last."""
        return await self._ledger.newest_run(dag_id)

    async def next_sequence(self) -> int:
        """Return the number of the oldest job that a worker holds, or that the next job will get."""
        workers = self._dispatcher.view.workers()
        held = [job.sequence for worker in workers for job in self._dispatcher.view.jobs_of(worker.name)]
        return min(held) if held else await self._ledger.max_sequence() + 1


def _decide_each(batch: Batch, together: Iterable[Event], known: Iterable[Job]) -> None:
    now = time.monotonic()
    batch.recall(known, now)
    for event in together:
        batch.handle(event, now)
