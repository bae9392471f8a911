"""The ledger's in-memory twin, for tests: the same contract, no disk."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import NONE
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import LogSelector


class MemoryLedger:
    """Fills the :class:`~edge_mqtt.broker_bridge.dispatch.ledger.interface.Ledger` port from a dict."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._jobs: dict[JobId, Job] = {}
        self._finished_at: dict[JobId, float] = {}

    def load_live(self) -> list[Job]:
        """Return the jobs that are not over."""
        with self._lock:
            return sorted((job for job in self._jobs.values() if not _over(job)), key=_sequence)

    def commit(self, jobs: Sequence[Job]) -> None:
        """Store ``jobs``."""
        with self._lock:
            for job in jobs:
                self._jobs[job.id] = job
                if job.state is CentralJobState.FINISHED:
                    self._finished_at.setdefault(job.id, self._clock())

    def add(self, jobs: Sequence[Job], new: Collection[JobId]) -> list[Job]:
        """Store ``jobs``; when some of ``new`` are known, store nothing and return those."""
        known = self.get(new)
        if not known:
            self.commit(jobs)
        return known

    def probe(self) -> None:
        """Do nothing: memory takes whatever comes."""

    def get(self, job_ids: Iterable[JobId]) -> list[Job]:
        """Return those of ``job_ids`` that are known."""
        with self._lock:
            return [self._jobs[job_id] for job_id in dict.fromkeys(job_ids) if job_id in self._jobs]

    def find(self, selector: LogSelector, limit: int) -> list[Job]:
        """Return at most ``limit`` jobs that match, newest first."""
        with self._lock:
            found = [job for job in self._jobs.values() if _matches(job, selector)]
        return sorted(found, key=_sequence, reverse=True)[:limit]

    def newest_run(self, dag_id: str) -> str | None:
        """Return the run of ``dag_id`` whose job came last."""
        newest = self.find(LogSelector(dag_id=dag_id), 1)
        return newest[0].spec.run_id if newest else None

    def find_of_logs(self, log_paths: Collection[str], but: Mapping[str, JobId] = NONE) -> list[Job]:
        """Return the jobs that write to one of some log files, without those of ``but``, in order of arrival."""
        with self._lock:
            found = [
                job
                for job in self._jobs.values()
                if (path := job.spec.log_path) in log_paths and job.id != but.get(path or "")
            ]
        return sorted(found, key=_sequence)

    def without_notice(self) -> list[JobId]:
        """Return the jobs of whose log the central file is to have a line, and does not have it yet."""
        with self._lock:
            found = [job for job in self._jobs.values() if job.lacks_notice]
        return [job.id for job in sorted(found, key=_sequence)]

    def unacknowledged(self, finished_before: float) -> list[JobId]:
        """Return the jobs that ended before ``finished_before`` and whose end was not acknowledged."""
        with self._lock:
            ended = [job_id for job_id, at in self._finished_at.items() if at < finished_before]
            return [job_id for job_id in ended if not _over(self._jobs[job_id])]

    def purge(self, finished_before: float) -> int:
        """Forget the jobs that are over since before ``finished_before``."""
        with self._lock:
            gone = [
                job.id for job in self._jobs.values() if _over(job) and self._finished_at[job.id] < finished_before
            ]
            for job_id in gone:
                del self._jobs[job_id]
                del self._finished_at[job_id]
        return len(gone)

    def max_sequence(self) -> int:
        """Return the highest sequence stored, 0 for none."""
        with self._lock:
            return max((job.sequence for job in self._jobs.values()), default=0)

    def close(self) -> None:
        """Keep everything: a twin may be opened again by whoever holds it."""


def _over(job: Job) -> bool:
    return job.state is CentralJobState.FINISHED and job.event_acked


def _sequence(job: Job) -> int:
    return job.sequence


def _matches(job: Job, selector: LogSelector) -> bool:
    facts = job.spec.model_dump(include={"dag_id", "task_id", "run_id", "map_index", "try_number", "queue"})
    facts["worker"] = job.worker
    wanted = selector.model_dump(exclude_none=True)
    return all(facts[field] == value for field, value in wanted.items())
