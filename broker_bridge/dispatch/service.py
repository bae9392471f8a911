"""The loop around the dispatcher's decisions: take events, decide, commit, then speak.

Everything that happened while the last commit was under way is decided and committed together, so a busy bridge pays
one disk sync for many. When a commit fails, the decisions are undone and nothing is sent. Who waits for an answer is
told; jobs and results are held by their senders, who send them again; everything else is decided once more later.
Only what needs no commit goes on: workers keep their leases for as long as the ledger takes to recover.

An event that cannot be decided or stored, whatever the reason, fails alone: its batch is undone and decided again in
halves, until that event is found.
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
from edge_mqtt.broker_bridge.dispatch.core.effects import Assigned, Effect, StartDecided
from edge_mqtt.broker_bridge.dispatch.core.events import Event
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger, LedgerError, LedgerRefused, LedgerTaken
from edge_mqtt.broker_bridge.protocol.errors import failure_line
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName

log = logging.getLogger(__name__)

#: Events whose senders hold what they are about until it is acknowledged. Not kept when the ledger takes nothing, so
#: that a full disk does not fill the memory too.
REPEATED_BY_SENDER: Final = (events.Submitted, events.ResultReported, events.CancelAsked, events.AdoptAsked)
#: Events in one transaction at most, which bounds how long the first of them waits.
BATCH_EVENTS: Final = 512
#: Seconds to wait after a failed commit before taking events again.
LEDGER_RETRY_S: Final = 1.0


class EventFailed(Exception):
    """What was asked for could not be decided, and never will be; says why in one line."""


@dataclass(slots=True)
class _Posted:
    event: Event
    #: Is told why the event has failed.
    on_failure: Callable[[str], None] | None = None
    #: Done when what the event changed is on disk; None when that is not waited for.
    committed: asyncio.Future[None] | None = None


class DispatchService:
    """Owns the dispatcher; :meth:`load` comes first, :meth:`run` once after it. All belongs to one event loop.

    :param ledger_retry_s: seconds to wait after a failed commit before taking events again.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        ledger: AsyncLedger,
        change_feed: ChangeFeed,
        *,
        ledger_retry_s: float = LEDGER_RETRY_S,
    ) -> None:
        self._dispatcher = dispatcher
        self._ledger = ledger
        self._change_feed = change_feed
        self._ledger_retry_s = ledger_retry_s
        self._events: deque[_Posted] = deque()
        self._arrived = asyncio.Event()
        self._starts: dict[str, asyncio.Future[str | None]] = {}
        self._start_number = 0
        #: Events in the next transaction at most.
        self._batch_events = BATCH_EVENTS
        #: Why the ledger takes nothing at the moment; None when it does.
        self.ledger_problem: str | None = None

    async def load(self) -> int:
        """Take over what the ledger has; return how many jobs are live.

        :raises LedgerError: it cannot be read.
        """
        jobs = await self._ledger.run(Ledger.load_live)
        last = await self._ledger.run(Ledger.max_sequence)
        self._dispatcher.load(jobs, time.monotonic(), last_sequence=last)
        for job in jobs:
            # Stored by a version that knew no bounds.
            problem = job.spec.problem() if job.state is not CentralJobState.FINISHED else None
            if problem is not None:
                self.post(events.SendingFailed(job_id=job.id, reason=f"no worker can be given the job: {problem}"))
        return len(jobs)

    def post(self, event: Event, on_failure: Callable[[str], None] | None = None) -> None:
        """Queue an event.

        :param on_failure: is told, in one line, why the event could not be decided.
        """
        self._queue(_Posted(event, on_failure))

    async def commit(self, event: Event) -> None:
        """Queue an event and wait until what it changed is on disk.

        :raises LedgerError: it could not be stored.
        :raises EventFailed: it never can be.
        """
        committed = asyncio.get_running_loop().create_future()
        self._queue(_Posted(event, committed=committed))
        await committed

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

    async def run(self, perform: Callable[[Effect], None], forget_job: Callable[[JobId], None]) -> None:
        """Decide, and have ``perform`` do what was decided, until cancelled.

        :param forget_job: told of every job that has ended.
        :raises LedgerTaken: what this bridge believes is no longer what the ledger has.
        """
        while True:
            await self._wait()
            posted = [self._events.popleft() for _ in range(min(len(self._events), self._batch_events))]
            await self._decide(posted or [_Posted(events.Tick())], perform, forget_job)
            if self.ledger_problem is not None:
                await self._probe()

    # ------------------------------------------------------------ parts

    def _queue(self, posted: _Posted) -> None:
        self._events.append(posted)
        self._arrived.set()

    async def _wait(self) -> None:
        if self._events:
            return
        self._arrived.clear()
        deadline = self._dispatcher.next_deadline()
        wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self.ledger_problem is not None:
            wait_s = self._ledger_retry_s if wait_s is None else min(wait_s, self._ledger_retry_s)
        # Not wait_for: in Python 3.11 it forgets to be cancelled when the event comes in the same moment.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._arrived.wait()

    async def _decide(
        self, posted: list[_Posted], perform: Callable[[Effect], None], forget_job: Callable[[JobId], None]
    ) -> None:
        try:
            with self._dispatcher.batch() as batch:
                await self._decide_and_store(batch, [one.event for one in posted])
        except LedgerRefused as error:
            await self._isolate(posted, str(error))
            return
        except LedgerTaken:
            raise
        except LedgerError as error:
            await self._refuse(posted, error, perform)
            return
        except Exception as error:  # noqa: BLE001  an event, whatever it is, must not end the loop
            await self._isolate(posted, failure_line(error))
            return
        self._batch_events = min(2 * self._batch_events, BATCH_EVENTS)
        self._speak(posted, batch, perform, forget_job)

    def _speak(
        self,
        posted: list[_Posted],
        batch: Batch,
        perform: Callable[[Effect], None],
        forget_job: Callable[[JobId], None],
    ) -> None:
        """Tell what is committed."""
        if batch.changed:
            self._report_recovery()
        for one in posted:
            if one.committed is not None and not one.committed.done():
                one.committed.set_result(None)
        self._perform(batch.effects, perform)
        for job in batch.changed.values():
            if job.state is CentralJobState.FINISHED:
                forget_job(job.id)
        if batch.changed:
            self._change_feed.notify()

    async def _decide_and_store(self, batch: Batch, posted: list[Event]) -> None:
        missing, submitted = set[JobId](), set[JobId]()
        for event in posted:
            (submitted if isinstance(event, events.Submitted) else missing).update(batch.missing(event))
        known = await self._ledger.run(Ledger.get, missing) if missing else []
        _decide_each(batch, posted, known)
        if not batch.changed:
            return
        # A submission's job is nearly always new. That is made sure of on the way into the ledger, not by a way of
        # its own before; when it is not so, everything is decided once more.
        new = (submitted - missing) & batch.changed.keys()
        repeated = await self._ledger.run(Ledger.add, list(batch.changed.values()), new)
        if repeated:
            batch.undo()
            _decide_each(batch, posted, [*known, *repeated])
            await self._ledger.run(Ledger.commit, list(batch.changed.values()))

    def _perform(self, effects: Iterable[Effect], perform: Callable[[Effect], None]) -> None:
        for effect in effects:
            try:
                if isinstance(effect, StartDecided):
                    self._answer_start(effect)
                else:
                    perform(effect)
            except Exception as error:  # noqa: BLE001  what was decided about others must be done
                self._fail_effect(effect, failure_line(error))

    def _answer_start(self, effect: StartDecided) -> None:
        start = self._starts.pop(effect.request_id, None)
        if start is not None and not start.done():
            start.set_result(None if effect.granted else effect.reason)

    # ------------------------------------------------------------ what cannot be decided, or done

    async def _isolate(self, posted: list[_Posted], problem: str) -> None:
        """Decide again about half of what has failed together; what has failed alone has failed for good."""
        if len(posted) > 1:
            self._events.extendleft(reversed(posted))
            self._batch_events = len(posted) // 2
            return
        self._batch_events = BATCH_EVENTS
        self._fail(posted[0], problem)
        if isinstance(posted[0].event, events.Tick):
            # It is due again at once.
            await asyncio.sleep(self._ledger_retry_s)

    def _fail(self, one: _Posted, problem: str) -> None:
        log.error("an event failed: %s: %s", type(one.event).__name__, problem, extra={"action": "event_failed"})
        start = self._take_start(one.event)
        if start is not None and not start.done():
            start.set_result(f"the bridge could not decide about the start: {problem}")
        if one.committed is not None and not one.committed.done():
            one.committed.set_exception(EventFailed(problem))
        if isinstance(one.event, events.Submitted):
            failure = events.SubmissionFailed(
                executor=one.event.executor,
                job_id=one.event.job.job_id,
                reason=f"the job was not accepted: {problem}",
            )
            self._events.appendleft(_Posted(failure))
        elif one.on_failure is not None:
            one.on_failure(problem)

    def _fail_effect(self, effect: Effect, problem: str) -> None:
        log.error(
            "what was decided could not be done: %s: %s",
            type(effect).__name__,
            problem,
            extra={"action": "effect_failed"},
        )
        if isinstance(effect, Assigned):
            job_id = effect.message.job.job_id
            self.post(events.SendingFailed(job_id=job_id, reason=f"no worker can be given the job: {problem}"))

    # ------------------------------------------------------------ while the ledger takes nothing

    async def _probe(self) -> None:
        """Find out whether the ledger takes entries again though nothing is to be stored: ``/healthz`` shows it.

        :raises LedgerTaken: another bridge has it now.
        """
        try:
            await self._ledger.run(Ledger.probe)
        except LedgerTaken:
            raise
        except LedgerError as error:
            self.ledger_problem = str(error)
        else:
            self._report_recovery()

    def _report_recovery(self) -> None:
        if self.ledger_problem is not None:
            log.warning("the ledger takes entries again", extra={"action": "ledger_recovered"})
            self.ledger_problem = None

    async def _refuse(self, posted: list[_Posted], error: LedgerError, perform: Callable[[Effect], None]) -> None:
        if self.ledger_problem is None:
            log.error("nothing is accepted: %s", error, extra={"action": "ledger_failed"})
        self.ledger_problem = str(error)
        again: list[_Posted] = []
        for one in posted:
            asker = one.committed or self._take_start(one.event)
            if asker is not None:
                if not asker.done():
                    asker.set_exception(type(error)(str(error)))
            elif not self._decide_without_ledger(one.event, perform):
                again.append(one)
        self._events.extendleft(reversed(again))
        # What the events that were dealt with here would have brought with them is looked at again.
        self._events.append(_Posted(events.Tick()))
        await asyncio.sleep(self._ledger_retry_s)

    def _take_start(self, event: Event) -> asyncio.Future[str | None] | None:
        return self._starts.pop(event.request_id, None) if isinstance(event, events.StartAsked) else None

    def _decide_without_ledger(self, event: Event, perform: Callable[[Effect], None]) -> bool:
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


def _decide_each(batch: Batch, posted: Iterable[Event], known: Iterable[Job]) -> None:
    now = time.monotonic()
    batch.recall(known, now)
    for event in posted:
        batch.handle(event, now)
