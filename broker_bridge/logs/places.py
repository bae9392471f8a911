"""Finds the place of every job's log in its file, and makes it when the job begins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.logs import marker
from edge_mqtt.broker_bridge.logs.patience import Patience
from edge_mqtt.broker_bridge.logs.placement import Found, base_now, final_lacks, is_closed, stored
from edge_mqtt.broker_bridge.logs.store import LogPathRefused, LogStore, Write
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName

log = logging.getLogger(__name__)

#: Refusals that are remembered, so that each is told once.
MAX_REFUSALS: Final = 1000


class JobRecords(Protocol):
    """What is asked about jobs, finished ones included."""

    async def record(self, job_id: JobId) -> Job | None:
        """Return the job."""

    async def same_log(self, log_path: str) -> list[Job]:
        """Return the jobs that write this log, in the order in which they were queued."""

    async def log_opened(self, job_id: JobId, base: int) -> None:
        """Store where the job's bytes begin in the file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
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


class Places:
    """Where every job's bytes go. A place is in the ledger before anything is written to it.

    :param now: aware time, for lines of our own.
    """

    def __init__(self, store: LogStore, jobs: JobRecords, patience: Patience, *, now: Callable[[], datetime]) -> None:
        self._store = store
        self._jobs = jobs
        self.patience = patience
        self._now = now
        self._leads: dict[JobId, bytes] = {}
        self._refused: dict[tuple[WorkerName, JobId, Fence], None] = {}

    async def find(self, worker: WorkerName, job_id: JobId, fence: Fence) -> Place | Unwanted | None:
        """Return the place of what a worker ships; None while it has to wait.

        :raises LedgerError: the ledger cannot be asked, or takes nothing.
        :raises OSError: the file cannot be looked at.
        """
        job = await self._jobs.record(job_id)
        if job is None or job.worker != worker or job.fence != fence or job.spec.log_path is None:
            return self._refuse(worker, job_id, fence, "the job is not this worker's, or its assignment is outdated")
        if job.state not in (JobState.RUNNING, JobState.FINISHED):
            # It may yet be given to another worker, whose bytes must not come behind these.
            return None
        if job.log_base is not None and job.state is JobState.RUNNING:
            return self._place(job)
        try:
            return await self._find_in_file(job, job.spec.log_path)
        except LogPathRefused as error:
            return self._refuse(worker, job_id, fence, str(error))

    async def find_kept(self, job_id: JobId) -> Place | Unwanted | None:
        """Return the place of a job whose log stays on its worker: behind the line that says so."""
        job = await self._jobs.record(job_id)
        if job is None or job.ships_log or job.spec.log_path is None or job.worker is None:
            return Unwanted()
        return await self.find(job.worker, job_id, job.fence)

    async def move(self, place: Place, found: Found) -> Place | None:
        """Return where a job goes on whose file others have changed."""
        base = base_now(place.base, place.base - len(place.lead), found)
        if base is not None:
            return await self._open(place.job, base, place.lead)
        lines = marker.of_loss(self._now()) + self._line_of_kept(place.job)
        return await self._open_behind(place.job, place.log_path, found.size, lines)

    def written(self, place: Place) -> None:
        """Take note that what stands before a job is in the file."""
        self._leads.pop(place.job.id, None)

    async def stored(self, job_id: JobId) -> int:
        """Return how many bytes of the job's log are stored, or are not wanted any more.

        :raises LedgerError: the ledger cannot be asked.
        :raises OSError: the file cannot be looked at.
        :raises LogPathRefused: it has no file.
        """
        job = await self._jobs.record(job_id)
        if job is None or job.log_base is None or job.spec.log_path is None:
            return 0
        of_file = await self._jobs.same_log(job.spec.log_path)
        if job.log_size is not None and is_closed(job, of_file):
            return job.log_size
        return stored(job, of_file, await asyncio.to_thread(self._store.size, job.spec.log_path))

    # ------------------------------------------------------------ parts

    async def _find_in_file(self, job: Job, log_path: str) -> Place | Unwanted | None:
        of_file = await self._jobs.same_log(log_path)
        if is_closed(job, of_file):
            return Unwanted(job.log_size)
        if job.log_base is not None:
            return self._place(job)
        size = await asyncio.to_thread(self._store.size, log_path)
        before = [other for other in of_file if other.sequence < job.sequence]
        missing = final_lacks(before, size, self.patience.is_over)
        if missing is None:
            return None
        lines = marker.of_lacks(missing, self._now()) + self._line_of_kept(job)
        place = await self._open_behind(job, log_path, size, lines)
        for lack in missing:
            log.warning(
                "the log of job %s is given up: another one begins behind what is here of it",
                lack.job.id,
                extra={"action": "log_given_up", "job_id": lack.job.id, "missing": lack.missing},
            )
        return place

    async def _open_behind(self, job: Job, log_path: str, size: int, lines: bytes) -> Place | None:
        """Let a job begin behind ``lines`` of our own, which go behind what is in the file."""
        if lines and await asyncio.to_thread(self._store.read, log_path, max(size - 1, 0), 1) not in (b"", b"\n"):
            lines = b"\n" + lines
        return await self._open(job, size + len(lines), lines)

    async def _open(self, job: Job, base: int, lead: bytes) -> Place | None:
        """Commit a job's base, then say where it is: after a crash in between, the file is too short for it."""
        await self._jobs.log_opened(job.id, base)
        opened = await self._jobs.record(job.id)
        if opened is None or opened.log_base is None:
            return None
        self._leads[job.id] = lead
        return self._place(opened)

    def _place(self, job: Job) -> Place:
        return Place(
            job=job,
            log_path=job.spec.log_path or "",
            base=job.log_base or 0,
            lead=self._leads.get(job.id, b""),
        )

    def _line_of_kept(self, job: Job) -> bytes:
        return b"" if job.ships_log else marker.of_kept(job, self._now())

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
