"""Finds the segment of every job's log in its file, and allocates it when the job begins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final
from weakref import WeakValueDictionary

from cachetools import FIFOCache

from edge_mqtt.broker_bridge.dispatch.coalescer import Coalescer
from edge_mqtt.broker_bridge.dispatch.core.events import Event, LogLeft, LogOpened
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.job_records import JobRecords
from edge_mqtt.broker_bridge.logs import notices
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.segments import (
    Found,
    count_stored,
    final_gaps,
    find_base,
    find_unwritten,
    is_closed,
    is_open,
    writes_same_task,
)
from edge_mqtt.broker_bridge.logs.store import LogPathRefused, LogStore, Write
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName

log = logging.getLogger(__name__)

#: Refusals that are remembered, so that each is logged once.
MAX_REFUSALS: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """Where a job's bytes go."""

    job: Job
    log_path: str
    base: int
    #: Lines of our own that stand before what the job has here, and may not be there yet.
    lead: bytes = b""

    @property
    def begin(self) -> int:
        """The offset of the first byte that is to be written here, as one of the job's."""
        return self.job.log_kept - len(self.lead)

    def write(self, offset: int, data: bytes) -> Write:
        """Return the write of some of the job's bytes."""
        return Write(
            job_id=self.job.id,
            log_path=self.log_path,
            base=self.base,
            offset=offset,
            data=data,
            begin=self.begin,
        )

    def write_lead(self) -> Write:
        """Return the write of what stands before the job."""
        return self.write(self.begin, self.lead)


@dataclass(frozen=True, slots=True)
class Unwanted:
    """The bytes can never be stored."""

    #: Bytes of the job's whole log, when that is known.
    log_size: int | None = None


@dataclass(frozen=True, slots=True)
class Busy:
    """Another job's bytes go to the file's end first."""

    #: Only until the batch is stored; otherwise until the other one's line has an end.
    is_short: bool


class SegmentAllocator:
    """Where every job's bytes go. A segment is in the ledger before anything is written to it.

    Not so where a line of ours stands for a log (it stays on its worker, or its job never began): that is noted when
    the line is written. After a crash in between the line is there twice, and it cannot be missing.

    :param commit: stores what the event changes; raises LedgerError.
    :param completeness: tells which logs are not waited for any more.
    :param now: aware time, for lines of our own.
    """

    def __init__(
        self,
        store: LogStore,
        records: JobRecords,
        commit: Callable[[Event], Awaitable[None]],
        completeness: Completeness,
        *,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._records = records
        self._commit = commit
        self._completeness = completeness
        self._now = now
        #: What was allocated since this program started, and may not all be written.
        self._allocated: dict[JobId, Segment] = {}
        self._refused: FIFOCache[tuple[WorkerName, JobId, Fence], None] = FIFOCache(MAX_REFUSALS)
        self._sizes: Coalescer[str, int] = Coalescer(self._read_sizes)
        #: One job at a time begins in a file.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        #: The job of every file whose bytes go there in the batch that is being stored.
        self._served: dict[str, JobId] = {}

    def begin_batch(self) -> None:
        """Begin with what is stored together: of each file, the bytes of one job."""
        self._served.clear()

    async def find_segment(self, worker: WorkerName, job_id: JobId, fence: Fence) -> Segment | Unwanted | Busy | None:
        """Return where the bytes go that a worker ships; None while it has to wait for the end of another's log.

        :raises LedgerError: the ledger cannot be asked, or takes nothing.
        :raises OSError: the file cannot be looked at.
        """
        job = await self._records.get(job_id)
        if job is None or job.worker != worker or job.fence != fence or job.spec.log_path is None:
            return self._refuse(worker, job_id, fence, "the job is not this worker's, or its assignment is outdated")
        if job.state not in (CentralJobState.RUNNING, CentralJobState.FINISHED) or job.lacks_notice:
            # It may yet be given to another worker, whose bytes must not come behind these; or a line comes first.
            return None
        return await self._find(job, job.spec.log_path)

    async def find_notice_segment(self, job_id: JobId) -> Segment | Unwanted | Busy | None:
        """Return where the line goes that a job lacks; None while it has to wait.

        :raises LedgerError: the ledger cannot be asked.
        :raises OSError: the file cannot be looked at.
        """
        job = await self._records.get(job_id)
        if job is None or job.spec.log_path is None or not job.lacks_notice:
            return Unwanted()
        return await self._find(job, job.spec.log_path)

    async def move_segment(self, segment: Segment, found: Found) -> Segment | None:
        """Return where a job goes on whose file others have changed.

        :raises LedgerError: the ledger takes nothing.
        """
        base = find_base(segment.base, segment.base + segment.begin, found)
        if base is not None:
            return await self._allocate(segment.job, base, segment.lead)
        lines = notices.loss_notice(self._now()) + self._notice(segment.job)
        return await self._allocate_behind(segment.job, segment.log_path, found.size, lines)

    async def record_written(self, job_id: JobId) -> None:
        """Take note that all there was to be written of a job is in the file.

        :raises LedgerError: the ledger takes nothing.
        """
        segment = self._allocated.get(job_id)
        if segment is not None and segment.job.lacks_notice:
            await self._store_base(job_id, segment.base)
        self._allocated.pop(job_id, None)

    async def count_stored(self, job_id: JobId) -> int:
        """Return how many bytes of the job's log are stored.

        :raises LedgerError: the ledger cannot be asked.
        :raises OSError: the file cannot be looked at.
        :raises LogPathRefused: it has no file.
        """
        job = await self._records.get(job_id)
        if job is None or job.log_base is None or job.spec.log_path is None:
            return 0
        return count_stored(job, await self._sizes.get(job.spec.log_path))

    # ------------------------------------------------------------ parts

    async def _find(self, job: Job, log_path: str) -> Segment | Unwanted | Busy | None:
        lock = self._locks.get(log_path)
        if lock is None and is_open(job) and job.state is CentralJobState.RUNNING:
            return self._serve(log_path, self._segment_of(job))
        lock = lock or self._locks.setdefault(log_path, asyncio.Lock())
        try:
            async with lock:
                if self._served.get(log_path, job.id) != job.id:
                    return Busy(is_short=True)
                found = await self._find_in_file(job, log_path)
        except LogPathRefused as error:
            return self._refuse(job.worker or WorkerName(""), job.id, job.fence, str(error))
        return self._serve(log_path, found) if isinstance(found, Segment) else found

    def _serve(self, log_path: str, segment: Segment) -> Segment | Busy:
        served = self._served.setdefault(log_path, segment.job.id)
        return segment if served == segment.job.id else Busy(is_short=True)

    async def _find_in_file(self, job: Job, log_path: str) -> Segment | Unwanted | Busy | None:
        of_file = await self._records.find_of_log(log_path, job.id)
        if is_closed(job, of_file):
            self._allocated.pop(job.id, None)
            return Unwanted(job.log_size)
        if is_open(job) or job.id in self._allocated:
            return self._segment_of(job)
        size = await self._sizes.get(log_path)
        before = [other for other in of_file if other.sequence < job.sequence and writes_same_task(other, job)]
        gaps = final_gaps(before, size, self._completeness.is_given_up) if job.log_base is None else ()
        if gaps is None:
            return None
        last = next((other for other in of_file if other.id != job.id and is_open(other)), None)
        if last is not None and not await self._may_follow(last, log_path, size, before):
            return Busy(is_short=False)
        lines = notices.gap_notice(gaps, self._now()) + self._notice(job)
        left = [other for other in find_unwritten(before, size) if other is not last]
        segment = await self._allocate_behind(job, log_path, size, lines, left if last is None else [last, *left])
        for gap in gaps:
            log.warning(
                "the log of job %s is given up: another one begins behind what is here of it",
                gap.job.id,
                extra={"action": "log_given_up", "job_id": gap.job.id, "missing": gap.missing},
            )
        return segment

    async def _may_follow(self, last: Job, log_path: str, size: int, before: Sequence[Job]) -> bool:
        """Tell whether another log may go on behind the one that has the file's end: not within a line of it."""
        if last in before or await asyncio.to_thread(self._store.ends_with_line, log_path, size):
            return True
        here = count_stored(last, size)
        return here == last.log_size or self._completeness.is_given_up(last, here)

    async def _read_sizes(self, log_paths: list[str]) -> dict[str, int | Exception]:
        return await asyncio.to_thread(self._store.sizes, log_paths)

    async def _allocate_behind(
        self, job: Job, log_path: str, size: int, lines: bytes, left: Sequence[Job] = ()
    ) -> Segment | None:
        """Let a job go on behind ``lines`` of our own, which go behind what is in the file.

        :param left: the job that has the file's end, and jobs before it of which there is nothing, but for a part of
            a line before them perhaps.
        """
        unwritten = find_unwritten(left, size)
        begins_line = any(other in unwritten or not writes_same_task(other, job) for other in left)
        if (lines or begins_line) and not await asyncio.to_thread(self._store.ends_with_line, log_path, size):
            lines = b"\n" + lines
        end = size + len(lines)
        events = tuple(
            LogLeft(
                job_id=other.id,
                base=end if other in unwritten else other.log_base or 0,
                kept=count_stored(other, size),
            )
            for other in left
        )
        segment = await self._allocate(job, end - job.log_kept, lines, events)
        for other in left:
            self._allocated.pop(other.id, None)
        return segment

    async def _allocate(self, job: Job, base: int, lead: bytes, left: tuple[LogLeft, ...] = ()) -> Segment | None:
        """Commit a job's base, then say where it is: after a crash in between, the file is too short for it."""
        if not job.lacks_notice:
            await self._store_base(job.id, base, left)
            stored = await self._records.get(job.id)
            if stored is None or stored.log_base is None:
                return None
            job = stored
        elif left:
            await self._store_base(job.id, None, left)
        self._allocated[job.id] = Segment(job=job, log_path=job.spec.log_path or "", base=base, lead=lead)
        return self._allocated[job.id]

    async def _store_base(self, job_id: JobId, base: int | None, left: tuple[LogLeft, ...] = ()) -> None:
        await self._commit(LogOpened(job_id=job_id, base=base, left=left))

    def _segment_of(self, job: Job) -> Segment:
        allocated = self._allocated.get(job.id)
        if allocated is not None:
            return replace(allocated, job=job)
        return Segment(job=job, log_path=job.spec.log_path or "", base=job.log_base or 0)

    def _notice(self, job: Job) -> bytes:
        if job.has_failed_unstarted:
            return notices.unstarted_notice(job, self._now())
        return b"" if job.ships_log else notices.kept_notice(job, self._now())

    def _refuse(self, worker: WorkerName, job_id: JobId, fence: Fence, reason: str) -> Unwanted:
        key = (worker, job_id, fence)
        if key not in self._refused:
            self._refused[key] = None
            log.warning(
                "log refused: %s",
                reason,
                extra={"action": "log_refused", "worker": worker, "job_id": job_id, "fence": fence},
            )
        return Unwanted()
