"""The facts that decisions are made from. Every change can be undone until the next checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_mqtt.broker_bridge.dispatch.core.journaled_dict import JournaledDict
from edge_mqtt.broker_bridge.dispatch.core.model import Job, WorkerView
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Outcome


@dataclass(frozen=True, kw_only=True, slots=True)
class UnconfirmedAssignment:
    """An assignment that its worker has not confirmed."""

    #: When it was sent last, in monotonic seconds.
    sent_at: float
    #: How often it was sent.
    sendings: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A worker's refusals: of one job, or of whatever it was given since it last took something."""

    times: int
    #: Until when it is spared, in monotonic seconds; None when that is over.
    until: float | None

    @property
    def is_spared(self) -> bool:
        """Whether the worker does not get it now."""
        return self.until is not None


class DispatchState:
    """Jobs, workers, and what is known of them that no message repeats."""

    def __init__(self) -> None:
        self.jobs: JournaledDict[JobId, Job] = JournaledDict()
        self.workers: JournaledDict[WorkerName, WorkerView] = JournaledDict()
        self.unconfirmed: JournaledDict[JobId, UnconfirmedAssignment] = JournaledDict()
        #: Which workers have refused a job that has not started. Not in the ledger: a restarted bridge asks anew.
        self.refusals: JournaledDict[JobId, Mapping[WorkerName, Refusal]] = JournaledDict()
        #: Workers that could take no job at all, and have taken none since.
        self.pauses: JournaledDict[WorkerName, Refusal] = JournaledDict()
        #: Jobs that Airflow gave up before they arrived, and what their executor is told should they still come.
        self.denied: JournaledDict[JobId, Outcome] = JournaledDict()
        #: Unfinished jobs whose task instance Airflow has queued again since.
        self.superseded: JournaledDict[JobId, None] = JournaledDict()
        #: Running jobs of a machine whose name another one has, and from when their lease counts. They take no slots.
        self.orphaned: JournaledDict[JobId, float] = JournaledDict()
        #: Numbers that were given out. They are not given again when what they were for is undone.
        self.last_sequence = 0
        self.last_assignment = 0

    def get_worker(self, name: WorkerName) -> WorkerView:
        """Return a worker; one of which nothing is known is offline."""
        return self.workers.get(name) or WorkerView(name=name)

    def find_assignment(self, worker: WorkerName, job_id: JobId, fence: int) -> Job | None:
        """Return the job when ``worker`` holds it under ``fence``; None when its word is out of date."""
        job = self.jobs.get(job_id)
        if job is None or job.holder != worker or job.fence != fence:
            return None
        return job

    def is_paused(self, job_id: JobId) -> bool:
        """Tell whether a worker does not get the job now because it has just refused it."""
        return any(refusal.is_spared for refusal in self.refusals.get(job_id, {}).values())

    def is_spared(self, worker: WorkerName, job_id: JobId) -> bool:
        """Tell whether ``worker`` has just refused the job, or every job."""
        refusals = (self.pauses.get(worker), self.refusals.get(job_id, {}).get(worker))
        return any(refusal is not None and refusal.is_spared for refusal in refusals)

    def is_reachable(self, job: Job) -> bool:
        """Tell whether a message to the machine that has, or had, ``job`` can arrive now, as far as we know."""
        if job.worker is None:
            return False
        worker = self.get_worker(job.worker)
        return worker.connected and worker.home == job.home

    def checkpoint(self) -> None:
        """Make the present what :meth:`rollback` returns to."""
        for journal in self._journals():
            journal.checkpoint()

    def rollback(self) -> None:
        """Return to the last checkpoint."""
        for journal in self._journals():
            journal.rollback()

    def _journals(self) -> tuple[JournaledDict[Any, Any], ...]:
        return (
            self.jobs,
            self.workers,
            self.unconfirmed,
            self.refusals,
            self.pauses,
            self.denied,
            self.superseded,
            self.orphaned,
        )
