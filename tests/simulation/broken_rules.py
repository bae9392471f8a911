"""Rules of the real programs, each broken on purpose: the simulation has to notice every one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.core.state import DispatchState
from edge_mqtt.broker_bridge.dispatch.core.view import DispatchView
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger, LedgerError
from edge_mqtt.broker_bridge.execution_api import forwarding
from edge_mqtt.broker_bridge.execution_api.doubt import describe_run
from edge_mqtt.broker_bridge.execution_api.forwarding import Forwarding
from edge_mqtt.broker_bridge.execution_api.last_words import LastWords
from edge_mqtt.broker_bridge.execution_api.relay import Relay
from edge_mqtt.broker_bridge.logs import segment_allocator
from edge_mqtt.broker_bridge.logs.store import Appended, LogStore, Write
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.executor import job_events
from edge_mqtt.executor.edge_mqtt_executor import EdgeMqttExecutor
from edge_mqtt.worker.api.server import ExecutionApiServer
from edge_mqtt.worker.bridge.lease_guard import LeaseGuard
from edge_mqtt.worker.bridge.results import Results
from edge_mqtt.worker.core import lease
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.log_cursor import LogCursor
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.runs import process_exit, run_plan
from edge_mqtt.worker.runs.stopping import RunningSupervisor
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.runs.watchdog import SupervisorWatchdog
from tests.simulation.plan import GRACE_S, Manners, Plan, Work
from tests.simulation.programs import Now

#: How much later something is stored that is said to be stored, in seconds.
LATER_S = 0.3


#: Within how many seeds a broken rule must be noticed.
NOTICED_WITHIN: Final = 100


_NEVER: Final[Mapping[str, float]] = dict.fromkeys(("bridge", "worker", "executor", "api"), 0.0)


def _only(plan: Plan, *faults: str) -> Plan:
    """Return a plan in which nothing else goes wrong."""
    return replace(plan, faults=faults, pause_s=40.0, deadly=dict(_NEVER), manners=Manners(tidy=True))


def _idle_between(work: Sequence[Work]) -> tuple[Work, ...]:
    return tuple(replace(one, at=2 * GRACE_S * turn, pauses="") for turn, one in enumerate(work[:3]))


def _stubborn(work: Iterable[Work]) -> tuple[Work, ...]:
    return tuple(replace(one, obeys=False) for one in work)


def _deferring(work: Iterable[Work]) -> tuple[Work, ...]:
    return tuple(replace(one, pauses="" if one.callback else "deferred") for one in work)


def _too_late(work: Iterable[Work]) -> tuple[Work, ...]:
    return tuple(one if one.run_made_at is None else replace(one, run_made_at=0.0) for one in work)


@dataclass(frozen=True, kw_only=True, slots=True)
class BrokenRule:
    """What is replaced by what, and how it shows."""

    name: str
    replaced: tuple[tuple[Any, str, Any], ...]
    #: A pattern in the verdict of one of the seeds.
    noticed: str
    #: Makes of a plan one with which it shows; what shows soon with any plan needs none.
    reshape: Callable[[Plan], Plan] | None = None


def _later(action: Any) -> None:
    program = Now.program
    assert program is not None
    program.life.after(LATER_S, action)


def _believe_everybody(self: DispatchState, _worker: WorkerName, job_id: JobId, _fence: int) -> Job | None:
    job = self.jobs.get(job_id)
    return None if job is None or job.holder is None else job


_run = AsyncLedger.run


async def _run_adding_later(self: AsyncLedger, method: Any, *args: Any) -> Any:
    if method is not Ledger.add:
        return await _run(self, method, *args)
    changes, new = args

    def commit() -> None:
        with contextlib.suppress(LedgerError):
            self._ledger.commit(changes)

    known = self._ledger.get(new)
    if not known:
        _later(commit)
    return known


_append = LogStore.append


def _append_later(self: LogStore, writes: Iterable[Write]) -> Appended:
    given = list(writes)
    _later(lambda: _append(self, given))
    return Appended(stored={write.job_id: max(0, write.offset + len(write.data)) for write in given}, failed={})


def _advance_before_ack(self: LogCursor, length: int, lost_at: float) -> None:
    self.sent += length
    self.acked, self.lost_at = self.sent, lost_at


def _settle_unseen(self: EdgeMqttExecutor) -> None:
    self.pop_passed_over()
    for offer in self.job_index.offers():
        self.settle_offer(offer.job_id)


async def _permit_all(_self: Relay, *_: object) -> None:
    """Ask nobody."""


async def _store_no_note(self: Forwarding, call: Any, job: Job) -> None:
    call.run_before = describe_run(await self._look(call.request, job))


async def _note_nothing(_self: LastWords, _request: object) -> None:
    """Let the end of the job speak for its task."""


async def _believe_a_kill(self: Supervisors, job: LocalJob, supervisor: RunningSupervisor) -> None:
    end = asyncio.ensure_future(process_exit.wait_process_exit(supervisor.identity))
    while not supervisor.told_left:
        done, _ = await asyncio.wait([end], timeout=0.5)
        if done:
            break
    outcome = await self._read_outcome(job, supervisor) if end.done() else RunOutcome(error="killed")
    supervisor.exited.set()
    del self._running[job.job_id]
    await self._events.report_exit(job, outcome)
    await self.launch_waiting()


async def _do_nothing(*_: object) -> None:
    await asyncio.Event().wait()


def _settled_without_log(self: LocalJob, **_: bool) -> bool:
    return self.result is not None and self.result_acked


def _settled_without_ack(self: LocalJob, *, log_stored: bool) -> bool:
    return self.result is not None and log_stored


BROKEN = (
    BrokenRule(
        name="no fence",
        replaced=((DispatchState, "find_assignment", _believe_everybody),),
        noticed="promise (2|4|5)",
    ),
    BrokenRule(
        name="the bridge speaks before its commit",
        replaced=((AsyncLedger, "run", _run_adding_later),),
        noticed="promise (1|2|4)",
    ),
    BrokenRule(
        name="a start is not recorded",
        replaced=((Relay, "_ask_start", _permit_all),),
        noticed="promise (1|2|4)",
    ),
    BrokenRule(
        name="a deferred task's earlier job may still speak for it",
        replaced=((DispatchView, "is_superseded", lambda *_: False),),
        noticed="promise 4.* tells the end of a task",
        # Its call that defers the task has to be repeated when the next job has begun already.
        reshape=lambda plan: replace(_only(plan), deadly={**_NEVER, "api": 0.1}, work=_deferring(plan.work)),
    ),
    BrokenRule(
        name="the end of every job is the end of its task",
        replaced=((job_events, "is_final", lambda _: True),),
        noticed="promise [14].*whose task goes on",
    ),
    BrokenRule(
        name="a word after which a task goes on is not noted",
        replaced=((LastWords, "note", _note_nothing),),
        noticed="promise [14].*whose task goes on",
    ),
    BrokenRule(
        name="a Dag run that is there already is believed to be our own",
        replaced=((forwarding, "was_triggered", lambda *_: True),),
        noticed="promise 4.* is told that it has made the Dag run",
        # What others made must be there already when the answer of a call is lost.
        reshape=lambda plan: replace(_only(plan), deadly={**_NEVER, "api": 0.1}, work=_too_late(plan.work)),
    ),
    BrokenRule(
        name="what was there before a Dag run was triggered is not stored",
        replaced=((Forwarding, "_note_run", _store_no_note),),
        noticed="promise 4.* is told that the Dag run .*, which it has made, was there already",
        reshape=lambda plan: replace(_only(plan), deadly={**_NEVER, "bridge": 0.01}),
    ),
    BrokenRule(
        name="what is the job's fault is waited out",
        replaced=((run_plan, "concerns_job", lambda _: False),),
        noticed="promise 4.*refused again and again",
    ),
    BrokenRule(
        name="a log is acknowledged before it is stored",
        replaced=((LogStore, "append", _append_later),),
        noticed="promise 3",
    ),
    BrokenRule(
        name="a log begins before the one before it is complete",
        replaced=((segment_allocator, "final_gaps", lambda *_: ()),),
        noticed="promise 3",
        reshape=lambda plan: replace(_only(plan, "log disk full"), work=_deferring(plan.work)),
    ),
    BrokenRule(
        name="a log's offset advances before the acknowledgement",
        replaced=((LogCursor, "record_sent", _advance_before_ack),),
        noticed="promise 3",
    ),
    BrokenRule(
        name="the worker's lease is longer than the centre's",
        replaced=((lease, "LEASE_MARGIN_S", -60.0),),
        noticed="promise 2",
        reshape=lambda plan: _only(plan, "long outage"),
    ),
    BrokenRule(
        name="new processes find the lease from before the idle time",
        replaced=((LeaseGuard, "_valid_contact", lambda self: self._contact),),
        noticed="promise 4",
        reshape=lambda plan: replace(_only(plan, "api down"), work=_idle_between(plan.work)),
    ),
    BrokenRule(
        name="results are not sent again",
        replaced=((Results, "resend_results", lambda _self: None),),
        noticed="promise 1",
    ),
    BrokenRule(
        name="calls are not sent again",
        replaced=(
            (ExecutionApiServer, "resend_calls", lambda _self: None),
            (ExecutionApiServer, "repeat_calls", _do_nothing),
        ),
        noticed="promise [14]",
    ),
    BrokenRule(
        name="the worker forgets a job before its log is stored",
        replaced=((LocalJob, "is_settled", _settled_without_log),),
        noticed="promise 3",
    ),
    BrokenRule(
        name="the worker forgets a job before its result is stored",
        replaced=((LocalJob, "is_settled", _settled_without_ack),),
        noticed="promise [14]",
    ),
    BrokenRule(
        name="a hung supervisor is reported alive",
        replaced=((SupervisorWatchdog, "run", _do_nothing),),
        noticed="promise 1",
        reshape=lambda plan: _only(plan, "hang"),
    ),
    BrokenRule(
        name="a kill is believed",
        replaced=((Supervisors, "_await_exit", _believe_a_kill),),
        noticed="promise 2.* is given away",
        reshape=lambda plan: replace(_only(plan, "clear"), work=_stubborn(plan.work), pause_s=6.0),
    ),
    BrokenRule(
        name="the executor acknowledges an event before Airflow has it",
        replaced=((EdgeMqttExecutor, "_follow_up_offers", _settle_unseen),),
        noticed="promise 1",
    ),
)
