"""Finds the place of every job's log in its file, and makes it when the job begins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, Protocol
from weakref import WeakValueDictionary

from edge_mqtt.broker_bridge.dispatch.coalescer import Coalescer
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.logs import notices
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.segments import Found, base_now, final_lacks, is_closed, stored, unwritten
from edge_mqtt.broker_bridge.logs.store import LogPathRefused, LogStore, Write
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName

log = logging.getLogger(__name__)

#: Refusals that are remembered, so that each is told once.
MAX_REFUSALS: Final = 1000


class JobRecords(Protocol):
    """What is asked about jobs, finished ones included."""

    async def record(self, job_id: JobId) -> Job | None:
        """Return the job."""

    async def same_log(self, log_path: str, but: JobId) -> list[Job]:
        """Return the jobs that write this log, in the order in which they were queued; ``but`` may be left out."""

    async def log_opened(self, job_id: JobId, base: int) -> None:
        """Store where the job's bytes begin in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Where a job's bytes go."""

    job: Job
    log_path: str
    base: int
    #: Lines of our own that stand before the job's first byte, and may not be there yet.
    lead: bytes = b""

    def write(self, offset: int, data: bytes) -> Write:
        """Return the write of some of the job's bytes."""
        return Write(job_id=self.job.id, log_path=self.log_path, base=self.base, offset=offset, data=data)

    def write_lead(self) -> Write:
        """Return the write of what stands before the job."""
        return self.write(-len(self.lead), self.lead)


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The bytes can never be stored."""

    #: Bytes of the job's whole log, when that is known.
    log_size: int | None = None


class SegmentAllocator:
    """Where every job's bytes go. A place is in the ledger before anything is written to it.

    Not so that of a log which stays on its worker: it is noted when the line is written that says so. After a crash
    in between the line is there twice, and it cannot be missing.

    :param now: aware time, for lines of our own.
    """

    def __init__(
        self, store: LogStore, jobs: JobRecords, patience: Completeness, *, now: Callable[[], datetime]
    ) -> None:
        self._store = store
        self._jobs = jobs
        self.patience = patience
        self._now = now
        #: What has been given a place since this program started, and may not all be written there.
        self._begun: dict[JobId, Segment] = {}
        self._refused: dict[tuple[WorkerName, JobId, Fence], None] = {}
        self._sizes: Coalescer[str, int] = Coalescer(self._look_at_sizes)
        #: One job at a time begins in a file.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def find(self, worker: WorkerName, job_id: JobId, fence: Fence) -> Segment | Unwanted | None:
        """Return the place of what a worker ships; None while it has to wait.

        :raises LedgerError: the ledger cannot be asked, or takes nothing.
        :raises OSError: the file cannot be looked at.
        """
        job = await self._jobs.record(job_id)
        if job is None or job.worker != worker or job.fence != fence or job.spec.log_path is None:
            return self._refuse(worker, job_id, fence, "the job is not this worker's, or its assignment is outdated")
        if job.state not in (CentralJobState.RUNNING, CentralJobState.FINISHED) or job.stays_unsaid:
            # It may yet be given to another worker, whose bytes must not come behind these; or a line comes first.
            return None
        return await self._find(job, job.spec.log_path)

    async def find_kept(self, job_id: JobId) -> Segment | Unwanted | None:
        """Return where the line goes that a job's log stays on its worker; None while it has to wait.

        :raises LedgerError: the ledger cannot be asked.
        :raises OSError: the file cannot be looked at.
        """
        job = await self._jobs.record(job_id)
        if job is None or job.spec.log_path is None or not job.stays_unsaid:
            return Unwanted()
        return await self._find(job, job.spec.log_path)

    async def move(self, place: Segment, found: Found) -> Segment | None:
        """Return where a job goes on whose file others have changed."""
        base = base_now(place.base, place.base - len(place.lead), found)
        if base is not None:
            return await self._open(place.job, base, place.lead)
        lines = notices.of_loss(self._now()) + self._line_of_kept(place.job)
        return await self._open_behind(place.job, place.log_path, found.size, lines)

    async def written(self, job_id: JobId) -> None:
        """Take note that all there was to be written of a job is in the file.

        :raises LedgerError: the ledger takes nothing.
        """
        begun = self._begun.get(job_id)
        if begun is not None and begun.job.stays_unsaid:
            await self._jobs.log_opened(job_id, begun.base)
        self._begun.pop(job_id, None)

    async def stored(self, job_id: JobId) -> int:
        """Return how many bytes of the job's log are stored, or are not wanted any more.

        :raises LedgerError: the ledger cannot be asked.
        :raises OSError: the file cannot be looked at.
        :raises LogPathRefused: it has no file.
        """
        job = await self._jobs.record(job_id)
        if job is None or job.log_base is None or job.spec.log_path is None:
            return 0
        of_file = await self._jobs.same_log(job.spec.log_path, job.id)
        if job.log_size is not None and is_closed(job, of_file):
            return job.log_size
        return stored(job, of_file, await self._sizes.get(job.spec.log_path))

    # ------------------------------------------------------------ parts

    async def _find(self, job: Job, log_path: str) -> Segment | Unwanted | None:
        if job.log_base is not None and job.state is CentralJobState.RUNNING:
            return self._place(job)
        try:
            async with self._locks.setdefault(log_path, asyncio.Lock()):
                return await self._find_in_file(job, log_path)
        except LogPathRefused as error:
            return self._refuse(job.worker or WorkerName(""), job.id, job.fence, str(error))

    async def _find_in_file(self, job: Job, log_path: str) -> Segment | Unwanted | None:
        of_file = await self._jobs.same_log(log_path, job.id)
        if is_closed(job, of_file):
            self._begun.pop(job.id, None)
            return Unwanted(job.log_size)
        if job.log_base is not None or job.id in self._begun:
            return self._place(job)
        size = await self._sizes.get(log_path)
        before = [other for other in of_file if other.sequence < job.sequence]
        missing = final_lacks(before, size, self.patience.is_over)
        if missing is None:
            return None
        lines = notices.of_lacks(missing, self._now()) + self._line_of_kept(job)
        place = await self._open_behind(job, log_path, size, lines, unwritten(before, size))
        for lack in missing:
            log.warning(
                "the log of job %s is given up: another one begins behind what is here of it",
                lack.job.id,
                extra={"action": "log_given_up", "job_id": lack.job.id, "missing": lack.missing},
            )
        return place

    async def _look_at_sizes(self, log_paths: list[str]) -> dict[str, int | Exception]:
        return await asyncio.to_thread(self._store.sizes, log_paths)

    async def _open_behind(
        self, job: Job, log_path: str, size: int, lines: bytes, overtaken: Sequence[Job] = ()
    ) -> Segment | None:
        """Let a job begin behind ``lines`` of our own, which go behind what is in the file.

        :param overtaken: jobs before it of which there is nothing, but for a part of a line before them perhaps.
        """
        if (lines or overtaken) and not await asyncio.to_thread(self._store.ends_with_line, log_path, size):
            lines = b"\n" + lines
        base = size + len(lines)
        for other in overtaken:
            await self._jobs.log_opened(other.id, base)
        return await self._open(job, base, lines)

    async def _open(self, job: Job, base: int, lead: bytes) -> Segment | None:
        """Commit a job's base, then say where it is: after a crash in between, the file is too short for it."""
        if not job.stays_unsaid:
            await self._jobs.log_opened(job.id, base)
            opened = await self._jobs.record(job.id)
            if opened is None or opened.log_base is None:
                return None
            job = opened
        self._begun[job.id] = Segment(job=job, log_path=job.spec.log_path or "", base=base, lead=lead)
        return self._begun[job.id]

    def _place(self, job: Job) -> Segment:
        begun = self._begun.get(job.id)
        if begun is not None:
            return replace(begun, job=job)
        return Segment(job=job, log_path=job.spec.log_path or "", base=job.log_base or 0)

    def _line_of_kept(self, job: Job) -> bytes:
        return b"" if job.ships_log else notices.of_kept(job, self._now())

    def _refuse(self, worker: WorkerName, job_id: JobId, fence: Fence, reason: str) -> Unwanted:
        key = (worker, job_id, fence)
        if key not in self._refused:
            self._refused[key] = None
            if len(self._refused) > MAX_REFUSALS:
                del self._refused[next(iter(self._refused))]
            log.warning(
                "log refused: %s",
                reason,
                extra={"action": "log_refused", "worker": worker, "job_id": job_id, "fence": fence},
            )
        return Unwanted()
