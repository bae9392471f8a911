"""Ways to find facts quickly. Nothing is known here that the facts do not say: all of it can be built again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job, TaskKey, WorkerView
from edge_mqtt.broker_bridge.dispatch.core.priority_map import PriorityMap
from edge_mqtt.broker_bridge.dispatch.core.ready_queue import ReadyQueues
from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.state import DispatchState, UnconfirmedAssignment
from edge_mqtt.broker_bridge.dispatch.core.worker_index import WorkerIndex
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName

#: What is due, and for which job or worker.
DeadlineKey = tuple[Literal["unconfirmed", "lease", "backoff", "pause", "orphaned"], str]


@dataclass(slots=True)
class JobIndex:
    """Jobs by what they are at. The dicts are sets that keep the order in which their members came."""

    #: Queued or assigned.
    waiting: dict[JobId, None] = field(default_factory=dict)
    running: dict[JobId, None] = field(default_factory=dict)
    #: Finished, and their executor has not acknowledged it.
    unacked: dict[JobId, None] = field(default_factory=dict)
    #: Finished, and acknowledged.
    closed: dict[JobId, None] = field(default_factory=dict)
    #: The unfinished jobs of each task instance.
    by_task: dict[TaskKey, dict[JobId, None]] = field(default_factory=dict)

    def add(self, job: Job) -> None:
        """Enter a job."""
        if job.state is CentralJobState.FINISHED:
            (self.closed if job.event_acked else self.unacked)[job.id] = None
            return
        (self.running if job.state is CentralJobState.RUNNING else self.waiting)[job.id] = None
        if job.task is not None:
            self.by_task.setdefault(job.task, {})[job.id] = None

    def remove(self, job: Job) -> None:
        """Take a job out."""
        self.waiting.pop(job.id, None)
        self.running.pop(job.id, None)
        self.unacked.pop(job.id, None)
        self.closed.pop(job.id, None)
        if job.task is not None and job.id in (siblings := self.by_task.get(job.task, {})):
            del siblings[job.id]
            if not siblings:
                del self.by_task[job.task]


@dataclass(slots=True)
class WorkerLoad:
    """What one worker holds."""

    #: In the order in which the jobs came to it.
    jobs: dict[JobId, None] = field(default_factory=dict)
    #: How many of its jobs have which lease: the next lease to end is known without a look at each job.
    leases: dict[float, int] = field(default_factory=dict)
    used_slots: int = 0

    def add(self, job: Job, slots: int) -> None:
        """Enter a job that takes ``slots``."""
        self.jobs[job.id] = None
        self.leases[job.lease_s] = self.leases.get(job.lease_s, 0) + 1
        self.used_slots += slots

    def remove(self, job: Job, slots: int) -> None:
        """Take a job out that took ``slots``."""
        del self.jobs[job.id]
        self.leases[job.lease_s] -= 1
        if not self.leases[job.lease_s]:
            del self.leases[job.lease_s]
        self.used_slots -= slots


class Indexes:
    """All of them. A job is taken out before a fact changes that decides where it is, and entered again then."""

    def __init__(self, state: DispatchState, settings: DispatchSettings) -> None:
        self._state = state
        self._settings = settings
        self.rebuild()

    def rebuild(self) -> None:
        """Build everything from the facts."""
        self.ready = ReadyQueues()
        self.jobs = JobIndex()
        self.worker_index = WorkerIndex()
        #: Workers that get nothing more until a large job of an earlier order fits; see ``assignment``.
        self.reservations: dict[WorkerName, JobId] = {}
        self.deadlines: PriorityMap[DeadlineKey, float] = PriorityMap()
        self._loads: dict[WorkerName, WorkerLoad] = {}
        for job in self._state.jobs.values():
            self.add_job(job)
        for worker in self._state.workers.values():
            self.update_lease(worker)
            self.update_slots(worker)
        for job_id, assignment in self._state.unconfirmed.items():
            self.add_unconfirmed(job_id, assignment)
        for job_id in self._state.refusals:
            self._update_backoff(job_id)
        for name in self._state.pauses:
            self.update_pause(name)

    # ------------------------------------------------------------ reading

    def get_load(self, worker: WorkerName) -> WorkerLoad:
        """Return what ``worker`` holds."""
        return self._loads.get(worker) or WorkerLoad()

    def held_jobs(self, worker: WorkerName) -> list[Job]:
        """Return the jobs that ``worker`` holds, in the order in which they came to it."""
        return [self._state.jobs[job_id] for job_id in self.get_load(worker).jobs]

    def orphaned_jobs(self, worker: WorkerName) -> list[Job]:
        """Return the running jobs of other machines that had the name of ``worker``."""
        jobs = (self._state.jobs[job_id] for job_id, _ in self._state.orphaned.items())
        return [job for job in jobs if job.worker == worker]

    def sibling_jobs(self, job: Job) -> list[Job]:
        """Return the unfinished jobs of the task instance of ``job``, itself included."""
        if job.task is None:
            return []
        return [self._state.jobs[job_id] for job_id in self.jobs.by_task.get(job.task, ())]

    # ------------------------------------------------------------ jobs

    def add_job(self, job: Job) -> None:
        """Enter a job as it is now."""
        self.jobs.add(job)
        if job.state is CentralJobState.QUEUED:
            self.ready.add(job, is_paused=self._state.is_paused(job.id))
        orphaned_from = self._state.orphaned.get(job.id)
        if orphaned_from is not None:
            self.deadlines.set(("orphaned", job.id), orphaned_from + job.lease_s)
        elif job.holder is not None:
            worker = self._state.get_worker(job.holder)
            load = self._loads.setdefault(worker.name, WorkerLoad())
            load.add(job, worker.cost(job.spec.slots))
            self._update_load(worker, load)

    def remove_job(self, job: Job) -> None:
        """Take a job out, as it was entered."""
        self.jobs.remove(job)
        if job.state is CentralJobState.QUEUED:
            self.ready.remove(job)
        if job.id in self._state.orphaned:
            self.deadlines.discard(("orphaned", job.id))
        elif job.holder is not None:
            worker = self._state.get_worker(job.holder)
            load = self._loads[worker.name]
            load.remove(job, worker.cost(job.spec.slots))
            self._update_load(worker, load)

    def forget_job(self, job_id: JobId) -> None:
        """Take out a job that is closed."""
        del self.jobs.closed[job_id]

    def add_unconfirmed(self, job_id: JobId, assignment: UnconfirmedAssignment) -> None:
        """Have an assignment looked at again when it should be confirmed."""
        self.deadlines.set(("unconfirmed", job_id), assignment.sent_at + self._settings.settle_s)

    def remove_unconfirmed(self, job_id: JobId) -> None:
        """Look at an assignment no more."""
        self.deadlines.discard(("unconfirmed", job_id))

    def update_refusals(self, job: Job) -> None:
        """Take in which workers are spared a job: have it looked at again when the first of them is not any more."""
        self._update_backoff(job.id)
        if job.state is CentralJobState.QUEUED:
            self.ready.remove(job)
            self.ready.add(job, is_paused=self._state.is_paused(job.id))

    def _update_backoff(self, job_id: JobId) -> None:
        refusals = self._state.refusals.get(job_id, {})
        ends = [refusal.until for refusal in refusals.values() if refusal.until is not None]
        if ends:
            self.deadlines.set(("backoff", job_id), min(ends))
        else:
            self.deadlines.discard(("backoff", job_id))

    # ------------------------------------------------------------ workers

    def update_lease(self, worker: WorkerView) -> None:
        """Enter when the next lease of a worker's jobs ends."""
        leases = self.get_load(worker.name).leases
        if leases:
            self.deadlines.set(("lease", worker.name), worker.lease_from + min(leases))
        else:
            self.deadlines.discard(("lease", worker.name))

    def update_slots(self, worker: WorkerView) -> None:
        """Count a worker's slots anew: it may have other ones, or serve other queues."""
        load = self._loads.setdefault(worker.name, WorkerLoad())
        load.used_slots = sum(worker.cost(job.spec.slots) for job in self.held_jobs(worker.name))
        self._offer_slots(worker, load)

    def update_pause(self, name: WorkerName) -> None:
        """Take in whether a worker gets nothing for some time."""
        pause = self._state.pauses.get(name)
        if pause is not None and pause.until is not None:
            self.deadlines.set(("pause", name), pause.until)
        else:
            self.deadlines.discard(("pause", name))
            self.ready.mark_unmatched(self._state.get_worker(name).queues)

    def remove_worker(self, worker: WorkerName) -> None:
        """Take out a worker that holds nothing."""
        self._loads.pop(worker, None)
        self.worker_index.remove(worker)

    def _update_load(self, worker: WorkerView, load: WorkerLoad) -> None:
        self.update_lease(worker)
        self._offer_slots(worker, load)

    def _offer_slots(self, worker: WorkerView, load: WorkerLoad) -> None:
        self.worker_index.update(worker, load.used_slots)
        self.ready.mark_unmatched(worker.queues)
