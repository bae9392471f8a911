"""A decision while it is being made: facts and indexes change together, and what is to be sent is collected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from edge_mqtt.broker_bridge.dispatch.core.effects import Decision, Effect, Moved
from edge_mqtt.broker_bridge.dispatch.core.indexes import Indexes
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job, WorkerView, check_move
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.state import DispatchState, Refusal, UnconfirmedAssignment
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName

#: Times that an assignment is sent before it is taken back. The second sending makes good a loss on the way.
MAX_SENDINGS: Final = 2


class Draft:
    """What one event changes, so far.

    :param now: monotonic seconds of the event.
    """

    __slots__ = ("_changed", "_effects", "indexes", "now", "settings", "state")

    def __init__(self, state: DispatchState, indexes: Indexes, settings: DispatchSettings, now: float) -> None:
        self.state = state
        self.indexes = indexes
        self.settings = settings
        self.now = now
        self._changed: dict[JobId, Job] = {}
        self._effects: list[Effect] = []

    def finish(self) -> Decision:
        """Return what was decided."""
        return Decision(changed=tuple(self._changed.values()), effects=tuple(self._effects))

    def emit(self, effect: Effect) -> None:
        """Have something done after the commit."""
        self._effects.append(effect)

    # ------------------------------------------------------------ jobs

    def put_job(self, job: Job) -> None:
        """Store a new or changed job.

        :raises IllegalMove: the transition table does not allow it.
        """
        before = self.state.jobs.get(job.id)
        self.state.jobs.put(job.id, job)
        self._changed[job.id] = job
        if before is None:
            self._add_job(job)
            return
        check_move(job.id, before.state, job.state)
        if job.state is not before.state and job.state in (CentralJobState.RUNNING, CentralJobState.FINISHED):
            self.emit(Moved(job=job))
        if job.state in (CentralJobState.RUNNING, CentralJobState.FINISHED):
            self._forget_refusals(job.id)
        if job.state is not CentralJobState.ASSIGNED or job.accepted:
            self._end_unconfirmed(job.id)
        if _index_key(before) != _index_key(job):
            self._move_job(before, job)

    def admit_jobs(self, jobs: Iterable[Job]) -> None:
        """Take in jobs as the ledger has them, without calling them changed.

        Nothing is known of their workers yet: a running job's lease begins now, an assigned one waits for its
        worker's presence for as long as an unconfirmed assignment may.
        """
        for job in jobs:
            if job.id in self.state.jobs:
                continue
            known = replace(job, accepted=False) if job.state is CentralJobState.ASSIGNED else job
            self.state.last_sequence = max(self.state.last_sequence, job.sequence)
            self.state.jobs.put(known.id, known)
            if known.holder is not None and known.holder not in self.state.workers:
                self.put_worker(WorkerView(name=known.holder, lease_from=self.now))
            self._add_job(known)
            if known.state is CentralJobState.ASSIGNED:
                self.expect_confirmation(known.id, MAX_SENDINGS)

    def orphan_job(self, job: Job, contact: float) -> None:
        """Leave a running job to its lease: another machine has taken its worker's name.

        :param contact: when its own machine was last heard, in monotonic seconds.
        """
        self.indexes.remove_job(job)
        self.state.orphaned.put(job.id, contact)
        self.indexes.add_job(job)

    def reclaim_job(self, job: Job) -> None:
        """Have a job that was left to its lease held again."""
        self.indexes.remove_job(job)
        self.state.orphaned.drop(job.id)
        self.indexes.add_job(job)

    def expect_confirmation(self, job_id: JobId, sendings: int) -> None:
        """Expect the confirmation of an assignment that is sent now for the ``sendings``-th time."""
        assignment = UnconfirmedAssignment(sent_at=self.now, sendings=sendings)
        self.state.unconfirmed.put(job_id, assignment)
        self.indexes.add_unconfirmed(job_id, assignment)

    def spare_worker(self, job: Job, worker: WorkerName, *, refused: bool) -> int:
        """Give a job to others only, for some time; return how often ``worker`` has refused it.

        :param refused: it has just refused it once more; otherwise it has not said a word.
        """
        refusals = self.state.refusals.get(job.id, {})
        times = (refusals[worker].times if worker in refusals else 0) + refused
        refusal = Refusal(times=times, until=self.now + self.settings.backoff_s(max(times, 1)))
        self._put_refusals(job.id, {**refusals, worker: refusal})
        return times

    def end_backoffs(self, job_id: JobId) -> None:
        """Let the workers have a job again that are spared it for long enough."""
        refusals = self.state.refusals.get(job_id)
        if refusals is not None:
            self._put_refusals(job_id, {worker: self._ended(refusal) for worker, refusal in refusals.items()})

    def _put_refusals(self, job_id: JobId, refusals: Mapping[WorkerName, Refusal]) -> None:
        self.state.refusals.put(job_id, refusals)
        self.indexes.update_refusals(self.state.jobs[job_id])

    def _forget_refusals(self, job_id: JobId) -> None:
        if job_id in self.state.refusals:
            self.state.refusals.drop(job_id)
            self.indexes.update_refusals(self.state.jobs[job_id])

    def _ended(self, refusal: Refusal) -> Refusal:
        is_over = refusal.until is not None and refusal.until <= self.now
        return replace(refusal, until=None) if is_over else refusal

    # ------------------------------------------------------------ workers

    def put_worker(self, worker: WorkerView) -> None:
        """Store a new or changed worker."""
        before = self.state.workers.get(worker.name)
        self.state.workers.put(worker.name, worker)
        self.indexes.update_lease(worker)
        if before is None or _slots_key(before) != _slots_key(worker):
            self.indexes.update_slots(worker)

    def renew_lease(self, name: WorkerName) -> None:
        """Renew the lease of everything that a worker holds: it was heard."""
        self.put_worker(replace(self.state.get_worker(name), lease_from=self.now))

    def pause_worker(self, name: WorkerName) -> None:
        """Give a worker nothing for some time: it could take no job at all."""
        before = self.state.pauses.get(name)
        times = 1 if before is None else before.times + 1
        self._put_pause(name, Refusal(times=times, until=self.now + self.settings.backoff_s(times)))

    def end_pause(self, name: WorkerName) -> None:
        """Try a worker again. Should it refuse once more, the next pause is longer."""
        before = self.state.pauses.get(name)
        if before is not None:
            self._put_pause(name, self._ended(before))

    def forget_pause(self, name: WorkerName) -> None:
        """Take a worker for one that takes jobs: it has taken one, or is new."""
        if name in self.state.pauses:
            self.state.pauses.drop(name)
            self.indexes.update_pause(name)

    def _put_pause(self, name: WorkerName, pause: Refusal) -> None:
        self.state.pauses.put(name, pause)
        self.indexes.update_pause(name)

    def forget_worker(self, name: WorkerName) -> None:
        """Know a worker as the holder of its jobs, or not at all when it has none: its next presence is a hello."""
        worker = self.state.get_worker(name)
        self.forget_pause(name)
        if self.indexes.get_load(name).jobs:
            self.put_worker(WorkerView(name=name, lease_from=worker.lease_from))
        else:
            self.state.workers.drop(name)
            self.indexes.remove_worker(name)

    # ------------------------------------------------------------ parts

    def _add_job(self, job: Job) -> None:
        self.indexes.add_job(job)
        # Only the latest of a task instance's jobs counts: Airflow has ended what it queues again.
        for sibling in self.indexes.sibling_jobs(job):
            older = min(job, sibling, key=lambda one: one.queueing)
            if sibling.id != job.id and older.state is not CentralJobState.FINISHED:
                self.state.superseded.put(older.id, None)

    def _move_job(self, before: Job, job: Job) -> None:
        if before.holder is None and job.holder is not None and not self.indexes.get_load(job.holder).jobs:
            # An idle worker says nothing for hours: its silence counts from when it has something to lose.
            self.put_worker(replace(self.state.get_worker(job.holder), lease_from=self.now))
        self.indexes.remove_job(before)
        if job.state is CentralJobState.FINISHED:
            self.state.superseded.drop(job.id)
            self.state.orphaned.drop(job.id)
        self.indexes.add_job(job)

    def _end_unconfirmed(self, job_id: JobId) -> None:
        self.state.unconfirmed.drop(job_id)
        self.indexes.remove_unconfirmed(job_id)


def _index_key(job: Job) -> tuple[object, ...]:
    """Return what decides which indexes a job is in."""
    return job.state, job.holder, job.event_acked


def _slots_key(worker: WorkerView) -> tuple[object, ...]:
    """Return what the choice of a worker depends on."""
    return worker.state, worker.queues, worker.concurrency, worker.last_assigned
