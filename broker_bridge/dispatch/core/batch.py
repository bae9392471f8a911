"""Events that are decided together, and done or undone together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any, Final

from edge_mqtt.broker_bridge.dispatch.core import events, executors, lease, lifecycle, reconcile
from edge_mqtt.broker_bridge.dispatch.core.assignment import match_jobs
from edge_mqtt.broker_bridge.dispatch.core.draft import Draft
from edge_mqtt.broker_bridge.dispatch.core.effects import Decision, Effect
from edge_mqtt.broker_bridge.dispatch.core.indexes import Indexes
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.state import DispatchState
from edge_mqtt.broker_bridge.protocol.ids import JobId

_RULES: Final[Mapping[type[events.Event], Callable[[Draft, Any], None]]] = {
    events.Submitted: lifecycle.submit_job,
    events.SubmissionFailed: lifecycle.fail_submission,
    events.SendingFailed: lifecycle.fail_unsendable_job,
    events.WorkerSeen: reconcile.update_worker,
    events.JobAccepted: lifecycle.record_acceptance,
    events.JobRejected: lifecycle.record_rejection,
    events.StartAsked: lifecycle.decide_start,
    events.ResultReported: lifecycle.record_result,
    events.TokenRefreshed: lifecycle.store_token,
    events.CallForwarded: lifecycle.store_forwarded_call,
    events.LogOpened: lifecycle.store_log_base,
    events.CancelAsked: lifecycle.cancel_job,
    events.TaskEnded: lifecycle.stop_unwanted_job,
    events.StartRefused: lifecycle.record_start_refusal,
    events.TaskTold: lifecycle.store_last_word,
    events.ExecutorConnected: executors.repeat_events,
    events.EventAcked: executors.record_event_ack,
    events.EventsGivenUp: executors.give_up_events,
    events.AdoptAsked: executors.adopt_jobs,
    events.Tick: lambda _draft, _event: None,
}


class Batch:
    """What :meth:`Dispatcher.batch` gives: events are passed to :meth:`missing`, then :meth:`handle`, in order."""

    def __init__(self, state: DispatchState, indexes: Indexes, settings: DispatchSettings) -> None:
        self._state = state
        self._indexes = indexes
        self._settings = settings
        #: What is to be committed in one transaction, each job as it was left.
        self.changed: dict[JobId, Job] = {}
        #: What is to be done after the commit, in order.
        self.effects: list[Effect] = []
        self._forget_oldest()
        state.checkpoint()

    def missing(self, event: events.Event) -> tuple[JobId, ...]:
        """Return the jobs that ``event`` may be about and that are not in memory.

        They are new, or over for so long that only the ledger knows them: give what it has to :meth:`recall`.
        Without that a submission that is repeated very late would run a second time. One may be decided about before
        the ledger is asked, if that is undone (:meth:`undo`) should the ledger know its job.
        """
        return tuple(job_id for job_id in _named_jobs(event) if job_id not in self._state.jobs)

    def recall(self, jobs: Iterable[Job], now: float) -> None:
        """Take in jobs that the ledger knows and memory does not.

        :param now: monotonic seconds.
        """
        self._draft(now).admit_jobs(jobs)

    def handle(self, event: events.Event, now: float) -> Decision:
        """Decide about one event; whatever is due by ``now`` (monotonic seconds) is decided with it."""
        draft = self._draft(now)
        _RULES[type(event)](draft, event)
        lease.expire(draft)
        match_jobs(draft)
        return self._finished(draft)

    def handle_alone(self, event: events.Event, now: float) -> Decision:
        """Decide about one event by itself: what is due, and what waits for a worker, stays so."""
        draft = self._draft(now)
        _RULES[type(event)](draft, event)
        return self._finished(draft)

    def undo(self) -> None:
        """Return to what was before the batch, with what was recalled in it too. It may go on from there."""
        self.changed.clear()
        self.effects.clear()
        self._state.rollback()
        # Rare, so the indexes are simply built again.
        self._indexes.rebuild()

    def _draft(self, now: float) -> Draft:
        return Draft(self._state, self._indexes, self._settings, now)

    def _finished(self, draft: Draft) -> Decision:
        decision = draft.finish()
        self.changed.update((job.id, job) for job in decision.changed)
        self.effects.extend(decision.effects)
        return decision

    def _forget_oldest(self) -> None:
        closed, denied = self._indexes.jobs.closed, self._state.denied
        for job_id in list(islice(closed, max(0, len(closed) - self._settings.remembered_jobs))):
            self._indexes.forget_job(job_id)
            self._state.jobs.drop(job_id)
        surplus = len(denied) - self._settings.remembered_denials
        if surplus > 0:
            for job_id, _ in islice(denied.items(), surplus):
                denied.drop(job_id)


def _named_jobs(event: events.Event) -> tuple[JobId, ...]:
    if isinstance(event, events.Submitted):
        return (event.job.job_id,)
    if isinstance(event, events.AdoptAsked):
        return event.job_ids
    if isinstance(event, events.WorkerSeen):
        return tuple(held.job_id for held in event.presence.jobs)
    # The log of a job may come long after its result, and so may its cancellation or a repetition of it.
    if isinstance(event, events.LogOpened):
        return (event.job_id, *(left.job_id for left in event.left))
    if isinstance(event, events.CancelAsked | events.SubmissionFailed):
        return (event.job_id,)
    return ()
