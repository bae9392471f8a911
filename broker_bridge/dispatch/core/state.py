"""The dispatcher's state and its indexes. Every change goes through here, so the indexes are never behind."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final, Literal

from edge_mqtt.broker_bridge.dispatch.core.deadlines import Deadlines
from edge_mqtt.broker_bridge.dispatch.core.effects import Decision, Effect, Moved
from edge_mqtt.broker_bridge.dispatch.core.journaled_dict import JournaledDict
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job, TaskKey, WorkerView, check_move
from edge_mqtt.broker_bridge.dispatch.core.ready_queue import ReadyQueue
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.worker_index import WorkerIndex
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Outcome

#: Jobs that are remembered as denied: far more than can be on their way at once.
MAX_DENIED: Final = 10_000

DeadlineKind = Literal["handout", "lease", "pause", "stranded"]
#: What is due, and for which job or worker.
DeadlineKey = tuple[DeadlineKind, str]

#: Times that an assignment is sent before it is taken back. The second sending makes good a loss on the way.
MAX_SENDINGS: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class UnconfirmedAssignment:
    """An assignment that its worker has not confirmed."""

    at: float
    sendings: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """A worker that is spared a job until some time."""

    worker: WorkerName
    until: float


class Board:
    """Jobs, workers, and what follows from them."""

    def __init__(self, settings: DispatchSettings) -> None:
        self.settings = settings
        #: Monotonic seconds of the event that is being decided.
        self.now = 0.0
        self.last_sequence = 0
        self.jobs: JournaledDict[JobId, Job] = JournaledDict()
        self.workers: JournaledDict[WorkerName, WorkerView] = JournaledDict()
        self.handouts: JournaledDict[JobId, UnconfirmedAssignment] = JournaledDict()
        self.pauses: JournaledDict[JobId, Pause] = JournaledDict()
        #: Jobs that Airflow gave up before they arrived, and what their executor is told should they still come.
        self.denied: JournaledDict[JobId, Outcome] = JournaledDict()
        #: Unfinished jobs whose task instance Airflow has queued again since.
        self.superseded: JournaledDict[JobId, None] = JournaledDict()
        #: Running jobs of a machine whose name another one has, and from when their lease counts. They take no slots.
        self.stranded: JournaledDict[JobId, float] = JournaledDict()
        self._journals: tuple[JournaledDict[Any, Any], ...] = (
            self.jobs,
            self.workers,
            self.handouts,
            self.pauses,
            self.denied,
            self.superseded,
            self.stranded,
        )
        self._assignments = 0
        self._changed: dict[JobId, Job] = {}
        self._effects: list[Effect] = []
        self._clear_indexes()

    def _clear_indexes(self) -> None:
        self.ready: dict[str, ReadyQueue] = {}
        #: Queues whose first job may have found a worker since the last matching.
        self.unsettled: set[str] = set()
        self.pool = WorkerIndex()
        self.deadlines: Deadlines[DeadlineKey] = Deadlines()
        self.running: dict[JobId, None] = {}
        self.unacked: dict[JobId, None] = {}
        self._over: dict[JobId, None] = {}
        #: The unfinished jobs of each task instance.
        self._of_task: dict[TaskKey, dict[JobId, None]] = {}
        #: Workers that get nothing more until a large job of an earlier order fits; see ``assignment``.
        self.kept_for: dict[WorkerName, JobId] = {}
        self._held: dict[WorkerName, dict[JobId, None]] = {}
        #: How many of its jobs have which lease: a worker's next lease to end is known without a look at each job.
        self._leases: dict[WorkerName, dict[float, int]] = {}
        self._used: dict[WorkerName, int] = {}

    # ------------------------------------------------------------ reading

    def held(self, worker: WorkerName) -> list[Job]:
        """Return the jobs that ``worker`` holds, in the order they came to it."""
        return [self.jobs[job_id] for job_id in self._held.get(worker, ())]

    def left_behind(self, worker: WorkerName) -> list[Job]:
        """Return the running jobs of other machines that had the name of ``worker``."""
        return [job for job_id, _ in self.stranded.items() if (job := self.jobs[job_id]).worker == worker]

    def current(self, worker: WorkerName, job_id: JobId, fence: int) -> Job | None:
        """Return the job when ``worker`` holds it under ``fence``; None when its word is out of date."""
        job = self.jobs.get(job_id)
        if job is None or job.holder != worker or job.fence != fence:
            return None
        return job

    def same_task(self, job: Job) -> list[Job]:
        """Return the unfinished jobs of the task instance of ``job``, itself included."""
        return [] if job.task is None else [self.jobs[job_id] for job_id in self._of_task.get(job.task, ())]

    def view(self, worker: WorkerName) -> WorkerView:
        """Return a worker; one that nothing is known of is offline."""
        return self.workers.get(worker) or WorkerView(name=worker)

    def reaches(self, job: Job) -> bool:
        """Tell whether a message to the machine that has, or had, ``job`` can arrive now, as far as we know."""
        if job.worker is None:
            return False
        view = self.view(job.worker)
        return view.connected and view.home == job.home

    # ------------------------------------------------------------ changing

    def emit(self, effect: Effect) -> None:
        """Have something done after the commit."""
        self._effects.append(effect)

    def take(self) -> Decision:
        """Return what was decided since the last call."""
        decision = Decision(changed=tuple(self._changed.values()), effects=tuple(self._effects))
        self._changed.clear()
        self._effects.clear()
        return decision

    def put_job(self, job: Job) -> None:
        """Store a new or changed job.

        :raises IllegalMove: the transition table does not allow it.
        """
        before = self.jobs.get(job.id)
        self.jobs.put(job.id, job)
        self._changed[job.id] = job
        if before is None:
            self._index(job)
            self._supersede(job)
            return
        check_move(job.id, before.state, job.state)
        if job.state is not before.state and job.state in (CentralJobState.RUNNING, CentralJobState.FINISHED):
            self.emit(Moved(job=job))
        if job.state is not CentralJobState.QUEUED:
            self._end_pause(job.id)
        if job.state is not CentralJobState.ASSIGNED or job.accepted:
            self._end_handout(job.id)
        if _place(before) != _place(job):
            if before.holder is None and job.holder is not None and not self._held.get(job.holder):
                self._begin_lease(job.holder)
            self._unindex(before)
            self._index(job)

    def put_worker(self, view: WorkerView) -> None:
        """Store a new or changed worker."""
        before = self.workers.get(view.name)
        self.workers.put(view.name, view)
        self._arm_lease(view)
        if before is None or _room(before) != _room(view):
            self._count_slots(view)

    def forget_worker(self, worker: WorkerName) -> None:
        """Know a worker as the holder of its jobs, or not at all when it has none: its next presence is a hello."""
        view = self.view(worker)
        if self._held.get(worker):
            self.put_worker(WorkerView(name=worker, last_contact=view.last_contact, lease_from=view.lease_from))
        else:
            self.workers.drop(worker)
            self.pool.remove(worker)

    def heard(self, worker: WorkerName) -> None:
        """Renew the lease of everything that ``worker`` holds."""
        self.put_worker(replace(self.view(worker), last_contact=self.now, lease_from=self.now))

    def strand(self, job: Job, contact: float) -> None:
        """Leave a running job to its lease: another machine has taken its worker's name.

        :param contact: when its own machine was last heard.
        """
        self._unindex(job)
        self.stranded.put(job.id, contact)
        self._index(job)

    def regain(self, job: Job) -> None:
        """Have a job that was left to its lease held again."""
        self._unindex(job)
        self._end_stranding(job.id)
        self._index(job)

    def hand_out(self, job_id: JobId, sendings: int) -> None:
        """Expect the confirmation of an assignment that is sent now for the ``sendings``-th time."""
        self._put_handout(job_id, UnconfirmedAssignment(at=self.now, sendings=sendings))

    def pause(self, job_id: JobId, worker: WorkerName) -> None:
        """Spare ``worker`` a job that it has just refused."""
        self._put_pause(job_id, Pause(worker=worker, until=self.now + self.settings.refusal_pause_s))

    def resume(self, job_id: JobId) -> None:
        """End a pause that is over."""
        self.pauses.drop(job_id)
        self.unsettled.add(self.jobs[job_id].spec.queue)

    def next_assignment(self) -> int:
        """Return the number of the assignment that is being made."""
        self._assignments += 1
        return self._assignments

    def next_sequence(self) -> int:
        """Return the place of a job that arrives now."""
        self.last_sequence += 1
        return self.last_sequence

    # ------------------------------------------------------------ whole batches

    def admit(self, jobs: Iterable[Job]) -> None:
        """Take in jobs as the ledger has them, without calling them changed.

        Nothing is known of their workers yet: a running job's lease begins now, an assigned one waits for its
        worker's presence for as long as an unconfirmed assignment may.
        """
        for job in jobs:
            if job.id in self.jobs:
                continue
            known = replace(job, accepted=False) if job.state is CentralJobState.ASSIGNED else job
            self.last_sequence = max(self.last_sequence, job.sequence)
            self.jobs.put(known.id, known)
            if known.holder is not None and known.holder not in self.workers:
                self.put_worker(WorkerView(name=known.holder, last_contact=self.now, lease_from=self.now))
            self._index(known)
            self._supersede(known)
            if known.state is CentralJobState.ASSIGNED:
                self.hand_out(known.id, MAX_SENDINGS)

    def checkpoint(self) -> None:
        """Make the present what :meth:`rollback` returns to; forget the oldest of the jobs that are over."""
        self._commit_journals()
        while len(self._over) > self.settings.remembered_jobs:
            oldest = next(iter(self._over))
            del self._over[oldest]
            self.jobs.drop(oldest)
        surplus = len(self.denied) - MAX_DENIED
        if surplus > 0:
            for job_id, _ in islice(self.denied.items(), surplus):
                self.denied.drop(job_id)
        self._commit_journals()

    def rollback(self) -> None:
        """Return to the last checkpoint. Rare, so the indexes are simply built again."""
        self.take()
        for journal in self._journals:
            journal.rollback()
        self._clear_indexes()
        for job in self.jobs.values():
            self._index(job)
        for view in self.workers.values():
            self._arm_lease(view)
            self._count_slots(view)
        for job_id, handout in self.handouts.items():
            self._put_handout(job_id, handout)
        for job_id, pause in self.pauses.items():
            self._put_pause(job_id, pause)
        self._commit_journals()

    # ------------------------------------------------------------ indexes

    def _commit_journals(self) -> None:
        for journal in self._journals:
            journal.checkpoint()

    def _index(self, job: Job) -> None:
        if job.state is CentralJobState.QUEUED:
            self.ready.setdefault(job.spec.queue, ReadyQueue()).add(job)
            self.unsettled.add(job.spec.queue)
        elif job.state is CentralJobState.FINISHED:
            (self._over if job.event_acked else self.unacked)[job.id] = None
            self.superseded.drop(job.id)
        elif job.state is CentralJobState.RUNNING:
            self.running[job.id] = None
        if job.state is not CentralJobState.FINISHED and job.task is not None:
            self._of_task.setdefault(job.task, {})[job.id] = None
        contact = self.stranded.get(job.id)
        if contact is not None and job.state is CentralJobState.RUNNING:
            self.deadlines.set(("stranded", job.id), contact + job.lease_s)
        elif contact is not None:
            self._end_stranding(job.id)
        elif job.holder is not None:
            self._held.setdefault(job.holder, {})[job.id] = None
            leases = self._leases.setdefault(job.holder, {})
            leases[job.lease_s] = leases.get(job.lease_s, 0) + 1
            view = self.view(job.holder)
            self._arm_lease(view)
            self._set_used(view, self._used.get(view.name, 0) + view.cost(job.spec.slots))

    def _supersede(self, job: Job) -> None:
        """Let only the latest of a task instance's jobs count: Airflow has ended what it queues again."""
        for other in self.same_task(job):
            older = min(job, other, key=lambda one: one.queueing)
            if other.id != job.id and older.state is not CentralJobState.FINISHED:
                self.superseded.put(older.id, None)

    def _unindex(self, job: Job) -> None:
        if job.state is CentralJobState.QUEUED:
            self.ready[job.spec.queue].remove(job.id)
            self.unsettled.add(job.spec.queue)
        self.running.pop(job.id, None)
        self.unacked.pop(job.id, None)
        self._over.pop(job.id, None)
        if job.task is not None and job.id in (siblings := self._of_task.get(job.task, {})):
            del siblings[job.id]
            if not siblings:
                del self._of_task[job.task]
        if job.holder is not None and job.id not in self.stranded:
            del self._held[job.holder][job.id]
            leases = self._leases[job.holder]
            leases[job.lease_s] -= 1
            if not leases[job.lease_s]:
                del leases[job.lease_s]
            view = self.view(job.holder)
            self._arm_lease(view)
            self._set_used(view, self._used[view.name] - view.cost(job.spec.slots))

    def _count_slots(self, view: WorkerView) -> None:
        self._set_used(view, sum(view.cost(job.spec.slots) for job in self.held(view.name)))

    def _set_used(self, view: WorkerView, used: int) -> None:
        self._used[view.name] = used
        self.pool.update(view, used)
        self.unsettled.update(queue for queue in view.queues if self.ready.get(queue))

    def _begin_lease(self, worker: WorkerName) -> None:
        # An idle worker says nothing for hours: its silence counts from when it has something to lose.
        self.put_worker(replace(self.view(worker), lease_from=self.now))

    def _arm_lease(self, view: WorkerView) -> None:
        leases = self._leases.get(view.name)
        if leases:
            self.deadlines.set(("lease", view.name), view.lease_from + min(leases))
        else:
            self.deadlines.clear(("lease", view.name))

    def _end_stranding(self, job_id: JobId) -> None:
        self.stranded.drop(job_id)
        self.deadlines.clear(("stranded", job_id))

    def _put_handout(self, job_id: JobId, handout: UnconfirmedAssignment) -> None:
        self.handouts.put(job_id, handout)
        self.deadlines.set(("handout", job_id), handout.at + self.settings.settle_s)

    def _end_handout(self, job_id: JobId) -> None:
        self.handouts.drop(job_id)
        self.deadlines.clear(("handout", job_id))

    def _put_pause(self, job_id: JobId, pause: Pause) -> None:
        self.pauses.put(job_id, pause)
        self.deadlines.set(("pause", job_id), pause.until)

    def _end_pause(self, job_id: JobId) -> None:
        self.pauses.drop(job_id)
        self.deadlines.clear(("pause", job_id))


def _place(job: Job) -> tuple[object, ...]:
    """Return what decides which indexes a job is in."""
    return job.state, job.holder, job.event_acked


def _room(view: WorkerView) -> tuple[object, ...]:
    """Return what the choice of a worker depends on."""
    return view.state, view.queues, view.concurrency, view.last_assigned
