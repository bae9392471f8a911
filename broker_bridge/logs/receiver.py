"""Accepts log chunks from workers, stores them in batches and acknowledges what is on disk."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.segment_allocator import Busy, Segment, SegmentAllocator, Unwanted
from edge_mqtt.broker_bridge.logs.store import Appended, LogStore, Write
from edge_mqtt.broker_bridge.logs.store_health import StoreHealth
from edge_mqtt.broker_bridge.protocol.errors import failure_line
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogAck, LogChunk

log = logging.getLogger(__name__)

#: Bytes of one worker that wait for the disk at most: twice what it has on the way when nothing is repeated.
MAX_WAITING_BYTES: Final = 2 * 1024 * 1024
#: Seconds between attempts to write what has to wait: a line of ours, while the log before it in its file is not all
#: here; the bytes of a job, while another one's line in the same file has no end.
RETRY_S: Final = 1.0

_Key = tuple[WorkerName, JobId, Fence]
#: A chunk, and when it came, in the loop's time.
_Arrival = tuple[WorkerName, LogChunk, float]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is stored together."""

    chunks: dict[_Key, list[LogChunk]] = field(default_factory=dict)
    #: When the last chunk of each came, in the loop's time.
    arrived: dict[_Key, float] = field(default_factory=dict)
    #: Where every chunk and line goes; a segment that is missing is not there yet.
    segments: dict[_Key, Segment | Unwanted] = field(default_factory=dict)
    #: The one job of every file that is written.
    of_file: dict[str, Segment] = field(default_factory=dict)
    #: What has to wait for another job's bytes: those that only wait for this batch, and the others.
    busy: tuple[list[_Key], list[_Key]] = field(default_factory=lambda: ([], []))

    def put_segment(self, key: _Key, segment: Segment | Unwanted) -> None:
        """Take note of where something goes."""
        self.segments[key] = segment
        if isinstance(segment, Segment):
            self.of_file[segment.log_path] = segment

    def writes(self, segment: Segment) -> list[Write]:
        """Return what is to be written to a segment; where a line comes first that is to be noted, nothing else."""
        chunks = () if segment.job.lacks_notice else self.chunks.get(_key(segment), ())
        return [segment.write_lead(), *(segment.write(chunk.offset, chunk.body) for chunk in chunks)]


class LogReceiver:
    """Collects chunks while the disk is busy and stores them together: one sync per file and batch.

    What can never be stored is acknowledged too, so that its worker forgets it.
    """

    def __init__(
        self,
        store: LogStore,
        allocator: SegmentAllocator,
        completeness: Completeness,
        *,
        acknowledge: Callable[[WorkerName, LogAck], object],
        change_feed: ChangeFeed,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
    ) -> None:
        """Prepare; belongs to the event loop that runs now.

        :param completeness: is told while nothing can be stored.
        :param acknowledge: sends an acknowledgement.
        :param max_waiting_bytes: bytes of one worker that wait for the disk at most.
        """
        self._store = store
        self._allocator = allocator
        self._completeness = completeness
        self._acknowledge = acknowledge
        self._change_feed = change_feed
        self._max_waiting_bytes = max_waiting_bytes
        self._time = asyncio.get_running_loop().time
        self._waiting: deque[_Arrival] = deque()
        self._waiting_bytes: Counter[WorkerName] = Counter()
        #: Jobs of whose log the central file is to have a line, and does not have it yet.
        self._without_notice: dict[JobId, None] = {}
        self.health = StoreHealth(self._time)
        self._arrived = asyncio.Event()

    def accept_chunk(self, worker: WorkerName, chunk: LogChunk) -> None:
        """Queue one chunk; a worker's chunks beyond its window are repeats, and dropped."""
        waiting = self._waiting_bytes[worker]
        if waiting and waiting + len(chunk.body) > self._max_waiting_bytes:
            return
        self._waiting_bytes[worker] += len(chunk.body)
        self._waiting.append((worker, chunk, self._time()))
        self._arrived.set()

    def write_notice(self, job_id: JobId) -> None:
        """Write the line that a job lacks (``Job.lacks_notice``) into its log; only once."""
        self._without_notice[job_id] = None
        self._arrived.set()

    async def run(self) -> None:
        """Store chunks until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if self._without_notice or self._waiting else None):
                    await self._arrived.wait()
            self._arrived.clear()
            chunks = list(self._waiting)
            self._waiting.clear()
            self._waiting_bytes.clear()
            try:
                await self._store_batch(chunks)
            except Exception as error:  # noqa: BLE001  no chunk may end the loop; they are all sent again
                log.error(  # noqa: TRY400  one line
                    "a batch of logs was not stored: %s", failure_line(error), extra={"action": "logs_failed"}
                )
            self._completeness.paused = self.health.problem is not None

    async def _store_batch(self, chunks: list[_Arrival]) -> None:
        """Store what can be stored. Workers keep what is not acknowledged, and send it again."""
        batch = _Batch()
        self._allocator.begin_batch()
        for worker, chunk, arrived in chunks:
            key = (worker, chunk.job_id, chunk.fence)
            batch.chunks.setdefault(key, []).append(chunk)
            batch.arrived[key] = arrived
        # Together, so that all logs that begin are noted by one commit.
        await asyncio.gather(
            *(self._find_notice_segment(batch, job_id) for job_id in list(self._without_notice)),
            *(self._find_segment(batch, key) for key in batch.chunks),
        )
        self._put_back(batch, chunks)
        self._acknowledge_unwanted(batch)
        if not batch.of_file:
            return
        appended = await self._append(batch)
        if batch.busy[0] and not appended.failed:
            self._arrived.set()
        for log_path, reason in appended.failed.items():
            self.health.record_failure(log_path, reason)
        stored = [segment for segment in batch.of_file.values() if segment.job.id in appended.stored]
        # A task only for those of which something is to be noted.
        for segment in stored:
            if not segment.job.lacks_notice:
                await self._record_stored(batch, segment, appended.stored[segment.job.id])
        lines = [segment for segment in stored if segment.job.lacks_notice]
        await asyncio.gather(
            *(self._record_stored(batch, segment, appended.stored[segment.job.id]) for segment in lines)
        )
        grown = [segment.log_path for segment in stored]
        if grown:
            self._change_feed.notify(grown)

    async def _find_segment(self, batch: _Batch, key: _Key) -> None:
        try:
            segment = await self._allocator.find_segment(*key)
        except (OSError, LedgerError) as error:
            self.health.record_failure(key[1], str(error))
            return
        except Exception as error:  # noqa: BLE001  the others' logs must be stored
            log.error(  # noqa: TRY400  one line
                "a log was not stored: %s", failure_line(error), extra={"action": "log_failed", "job_id": key[1]}
            )
            return
        if isinstance(segment, Busy):
            batch.busy[0 if segment.is_short else 1].append(key)
        elif segment is not None:
            batch.put_segment(key, segment)

    def _put_back(self, batch: _Batch, chunks: list[_Arrival]) -> None:
        """Let what has to wait for another job's bytes come first the next time: two that share a file take turns."""
        short, long = (set(keys) for keys in batch.busy)
        if not short and not long:
            return
        waits = [
            [each for each in chunks if (each[0], each[1].job_id, each[1].fence) in keys] for keys in (short, long)
        ]
        for worker, chunk, _ in (*waits[0], *waits[1]):
            self._waiting_bytes[worker] += len(chunk.body)
        self._waiting.extendleft(reversed([*waits[0], *waits[1]]))

    async def _find_notice_segment(self, batch: _Batch, job_id: JobId) -> None:
        try:
            segment = await self._allocator.find_notice_segment(job_id)
        except (OSError, LedgerError) as error:
            self.health.record_failure(job_id, str(error))
            return
        if isinstance(segment, Segment):
            batch.put_segment(_key(segment), segment)
        elif isinstance(segment, Unwanted):
            del self._without_notice[job_id]

    def _acknowledge_unwanted(self, batch: _Batch) -> None:
        """Acknowledge what can never be stored."""
        for key, segment in batch.segments.items():
            if isinstance(segment, Unwanted):
                ends = [chunk.offset + len(chunk.body) for chunk in batch.chunks.get(key, ())]
                self._acknowledge_up_to(batch, key, max(segment.log_size or 0, *ends, 0), stored=False)

    async def _append(self, batch: _Batch) -> Appended:
        appended = await self._append_all(batch, list(batch.of_file.values()))
        moved: list[Segment] = []
        for log_path, found in appended.changed.items():
            try:
                segment = await self._allocator.move_segment(batch.of_file[log_path], found)
            except LedgerError as error:
                appended.failed[log_path] = str(error)
                continue
            if segment is not None:
                moved.append(segment)
        if moved:
            again = await self._append_all(batch, moved)
            appended.stored.update(again.stored)
            appended.failed.update(again.failed)
        return appended

    async def _append_all(self, batch: _Batch, segments: list[Segment]) -> Appended:
        writes = [write for segment in segments for write in batch.writes(segment)]
        return await asyncio.to_thread(self._store.append, writes)

    async def _record_stored(self, batch: _Batch, segment: Segment, offset: int) -> None:
        try:
            await self._allocator.record_written(segment.job.id)
        except LedgerError as error:
            self.health.record_failure(segment.job.id, str(error))
            return
        self._without_notice.pop(segment.job.id, None)
        self.health.record_success(segment.log_path)
        self.health.record_success(segment.job.id)
        if _key(segment) in batch.chunks:
            self._acknowledge_up_to(batch, _key(segment), offset)

    def _acknowledge_up_to(self, batch: _Batch, key: _Key, offset: int, *, stored: bool = True) -> None:
        worker, job_id, fence = key
        now = self._time()
        held_s = round(now - batch.arrived.get(key, now), 4)
        self._acknowledge(worker, LogAck(job_id=job_id, fence=fence, offset=offset, held_s=held_s, stored=stored))


def _key(segment: Segment) -> _Key:
    return segment.job.worker or WorkerName(""), segment.job.id, segment.job.fence
