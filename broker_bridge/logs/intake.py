"""Takes log chunks from workers, stores them in batches and acknowledges what is on disk."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Protocol

from edge_mqtt.broker_bridge.changes import Changes
from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.dispatch.ledger import LedgerError
from edge_mqtt.broker_bridge.logs.store import LogPathRefused, LogStore, Write
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogAck, LogChunk

log = logging.getLogger(__name__)

#: Bytes of one worker that wait for the disk at most: twice what it has on the way when nothing is repeated.
MAX_WAITING_BYTES: Final = 2 * 1024 * 1024
#: Seconds to wait when the disk takes nothing; workers keep what is not acknowledged and send it again.
DISK_RETRY_S: Final = 2.0


class JobRecords(Protocol):
    """What the intake needs to know of jobs, finished ones included."""

    async def record(self, job_id: JobId) -> Job | None:
        """Return the job."""

    async def same_log(self, log_path: str) -> list[Job]:
        """Return the jobs that write this log, in the order in which they were queued."""

    async def log_opened(self, job_id: JobId, base: int) -> None:
        """Store where the job's bytes begin in the file."""


class LogIntake:
    """Collects chunks while the disk is busy and stores them together: one sync per file and batch."""

    def __init__(
        self,
        store: LogStore,
        jobs: JobRecords,
        *,
        acknowledge: Callable[[WorkerName, LogAck], object],
        changes: Changes,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._acknowledge = acknowledge
        self._changes = changes
        self._waiting: deque[tuple[WorkerName, LogChunk]] = deque()
        self._waiting_bytes: Counter[WorkerName] = Counter()
        #: Why logs cannot be stored now; None when they can.
        self.problem: str | None = None
        self._arrived = asyncio.Event()

    def put(self, worker: WorkerName, chunk: LogChunk) -> None:
        """Queue one chunk; a worker's chunks beyond its window are repeats, and dropped."""
        waiting = self._waiting_bytes[worker]
        if waiting and waiting + len(chunk.body) > MAX_WAITING_BYTES:
            return
        self._waiting_bytes[worker] += len(chunk.body)
        self._waiting.append((worker, chunk))
        self._arrived.set()

    async def run(self) -> None:
        """Store chunks until cancelled."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            batch = list(self._waiting)
            self._waiting.clear()
            self._waiting_bytes.clear()
            problem = await self._store_batch(batch)
            if problem is None:
                self.problem = None
                continue
            if problem != self.problem:
                log.error(
                    "task logs cannot be stored (%s): free space or mend the folder; workers keep the logs meanwhile",
                    problem,
                    extra={"action": "log_store_failed"},
                )
            self.problem = problem
            await asyncio.sleep(DISK_RETRY_S)

    async def _store_batch(self, batch: list[tuple[WorkerName, LogChunk]]) -> str | None:
        """Store what can be stored; return why when nothing could be."""
        writes: list[Write] = []
        owners: dict[JobId, WorkerName] = {}
        jobs: dict[tuple[WorkerName, JobId], Job | None] = {}
        problem: str | None = None
        for worker, chunk in batch:
            key = (worker, chunk.job_id)
            if key not in jobs:
                try:
                    jobs[key] = await self._open(worker, chunk.job_id)
                except (OSError, LedgerError) as error:
                    jobs[key] = None
                    problem = str(error)
            job = jobs[key]
            if job is None or job.log_base is None or job.spec.log_path is None:
                continue
            owners[chunk.job_id] = worker
            writes.append(
                Write(
                    job_id=chunk.job_id,
                    log_path=job.spec.log_path,
                    base=job.log_base,
                    offset=chunk.offset,
                    data=chunk.body,
                )
            )
        if not writes:
            return problem
        appended = await asyncio.to_thread(self._store.append, writes)
        for job_id, offset in appended.stored.items():
            self._acknowledge(owners[job_id], LogAck(job_id=job_id, offset=offset))
        if appended.stored:
            self._changes.notify()
            return None
        return next(iter(appended.failed.values()), problem)

    async def _open(self, worker: WorkerName, job_id: JobId) -> Job | None:
        """Return the job with its base; None when its chunks cannot be stored, or not yet."""
        job = await self._jobs.record(job_id)
        if job is None or job.worker != worker or job.spec.log_path is None:
            log.warning(
                "log refused: the job is not this worker's",
                extra={"action": "log_refused", "worker": worker, "job_id": job_id},
            )
            return None
        if job.state not in (JobState.RUNNING, JobState.FINISHED):
            # It may yet be given to another worker, whose bytes must not come behind these.
            return None
        if job.log_base is not None:
            return job
        try:
            base = await self._base(job, job.spec.log_path)
        except LogPathRefused as error:
            log.warning("log refused: %s", error, extra={"action": "log_refused", "worker": worker, "job_id": job_id})
            return None
        if base is None:
            return None
        await self._jobs.log_opened(job_id, base)
        return await self._jobs.record(job_id)

    async def _base(self, job: Job, log_path: str) -> int | None:
        """Return where the job begins in the file; None while the job before it is not all there."""
        size = await asyncio.to_thread(self._store.size, log_path)
        before = [other for other in await self._jobs.same_log(log_path) if other.sequence < job.sequence]
        return size if all(_is_all_here(other, size) for other in before) else None

    async def stored(self, job_id: JobId) -> int:
        """Return how many bytes of the job's log are stored."""
        job = await self._jobs.record(job_id)
        if job is None or job.log_base is None or job.spec.log_path is None:
            return 0
        size = await asyncio.to_thread(self._store.size, job.spec.log_path)
        stored = max(0, size - job.log_base)
        return stored if job.log_size is None else min(stored, job.log_size)


def _is_all_here(job: Job, size: int) -> bool:
    """Tell whether nothing more of a job's log will come into its file of ``size`` bytes."""
    if job.state is not JobState.FINISHED:
        return False
    if not job.log_size:
        # It wrote nothing, or was lost and nobody will bring what it wrote.
        return True
    return job.log_base is not None and size >= job.log_base + job.log_size
