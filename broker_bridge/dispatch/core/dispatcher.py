"""The dispatcher's face: events in, decisions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from edge_mqtt.broker_bridge.dispatch.core import events, executors, lease, lifecycle, reconcile
from edge_mqtt.broker_bridge.dispatch.core.assignment import match
from edge_mqtt.broker_bridge.dispatch.core.effects import Decision
from edge_mqtt.broker_bridge.dispatch.core.model import Job, WorkerView
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.state import Board
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName

__all__ = ["DispatchSettings", "Dispatcher"]

_RULES: Final[Mapping[type[events.Event], Callable[[Board, Any], None]]] = {
    events.Submitted: lifecycle.submitted,
    events.WorkerSeen: reconcile.worker_seen,
    events.JobAccepted: lifecycle.accepted,
    events.JobRejected: lifecycle.rejected,
    events.StartAsked: lifecycle.start_asked,
    events.ResultReported: lifecycle.result_reported,
    events.TokenRefreshed: lifecycle.token_refreshed,
    events.LogOpened: lifecycle.log_opened,
    events.CancelAsked: lifecycle.cancel_asked,
    events.TaskEnded: lifecycle.task_ended,
    events.StartRefused: lifecycle.start_refused,
    events.ExecutorConnected: executors.connected,
    events.EventAcked: executors.acked,
    events.EventsGivenUp: executors.give_up_events,
    events.AdoptAsked: executors.adopt,
    events.Tick: lambda _board, _event: None,
}


class Dispatcher:
    """Decides what becomes of jobs.

    One batch of events: ``checkpoint``; for each event ``missing``, ``recall`` what the ledger has of it, ``handle``;
    then commit what changed, and either perform the effects or ``rollback``.
    """

    def __init__(self, settings: DispatchSettings) -> None:
        self._board = Board(settings)

    def load(self, jobs: Iterable[Job], now: float, *, last_sequence: int = 0) -> Decision:
        """Begin with the ledger's live jobs; their workers have ``settle_s`` to show up again.

        :param now: monotonic seconds.
        :param last_sequence: the highest sequence that the ledger ever stored.
        """
        self._board.now = now
        self._board.last_sequence = last_sequence
        self._board.admit(jobs)
        self._board.checkpoint()
        return self._board.take()

    def missing(self, event: events.Event) -> tuple[JobId, ...]:
        """Return the jobs that ``event`` may be about and that are not in memory.

        They are new, or over for so long that only the ledger knows them: give what it has to :meth:`recall`.
        Without that a submission that is repeated very late would run a second time. One may be decided about before
        the ledger is asked, if that is undone (:meth:`rollback`) should the ledger know its job.
        """
        return tuple(job_id for job_id in _named(event) if job_id not in self._board.jobs)

    def recall(self, jobs: Iterable[Job]) -> None:
        """Take in jobs that the ledger knows and memory does not."""
        self._board.admit(jobs)

    def handle(self, event: events.Event, now: float) -> Decision:
        """Decide about one event; whatever is due by ``now`` (monotonic seconds) is decided with it."""
        self._board.now = now
        _RULES[type(event)](self._board, event)
        lease.expire(self._board)
        match(self._board)
        return self._board.take()

    def handle_unless_changing(self, event: events.Event, now: float) -> Decision | None:
        """Decide about one event by itself; None, and nothing is decided, when that would change a job.

        For as long as nothing can be committed. What is due, and what waits for a worker, stays so.
        """
        if self.missing(event):
            return None
        self._board.checkpoint()
        self._board.now = now
        _RULES[type(event)](self._board, event)
        decision = self._board.take()
        if not decision.changed:
            return decision
        self._board.rollback()
        return None

    def next_deadline(self) -> float | None:
        """Return when a Tick is due at the latest, in monotonic seconds."""
        return self._board.deadlines.next()

    def checkpoint(self) -> None:
        """Make the present what :meth:`rollback` returns to: everything before it is committed."""
        self._board.checkpoint()

    def rollback(self) -> None:
        """Undo everything since the last checkpoint: its commit failed."""
        self._board.rollback()

    def job(self, job_id: JobId) -> Job | None:
        """Return a job that is in memory."""
        return self._board.jobs.get(job_id)

    def is_superseded(self, job_id: JobId) -> bool:
        """Tell whether Airflow has queued the task of an unfinished job again since."""
        return job_id in self._board.superseded

    def is_reachable(self, job: Job) -> bool:
        """Tell whether a message to the machine that has, or had, ``job`` can arrive now, as far as we know."""
        return self._board.reaches(job)

    def jobs_of(self, worker: WorkerName) -> tuple[Job, ...]:
        """Return the jobs that ``worker`` holds, assigned or running; also on former machines of its name."""
        return (*self._board.held(worker), *self._board.left_behind(worker))

    def is_served(self, queue: str) -> bool:
        """Tell whether a connected worker serves ``queue``, though it may take no new jobs now."""
        # Asked for every job that comes: who takes jobs is known without a look at each worker.
        return self._board.pool.is_served(queue) or any(
            worker.connected and queue in worker.queues for worker in self.workers()
        )

    def running_jobs(self) -> tuple[Job, ...]:
        """Return every running job."""
        return tuple(self._board.jobs[job_id] for job_id in self._board.running)

    def workers(self) -> tuple[WorkerView, ...]:
        """Return every worker that is known."""
        return tuple(self._board.workers.values())


def _named(event: events.Event) -> tuple[JobId, ...]:
    if isinstance(event, events.Submitted):
        return (event.job.job_id,)
    if isinstance(event, events.AdoptAsked):
        return event.job_ids
    if isinstance(event, events.WorkerSeen):
        return tuple(held.job_id for held in event.presence.jobs)
    if isinstance(event, events.LogOpened | events.CancelAsked):
        # The log of a job may come long after its result, and so may its cancellation.
        return (event.job_id,)
    return ()
