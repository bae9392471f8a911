"""Takes log chunks from workers, stores them in batches and acknowledges what is on disk."""

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
from edge_mqtt.broker_bridge.logs.segment_allocator import Segment, SegmentAllocator, Unwanted
from edge_mqtt.broker_bridge.logs.store import Appended, LogStore, Write
from edge_mqtt.broker_bridge.logs.store_health import StoreHealth
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogAck, LogChunk

log = logging.getLogger(__name__)

#: Bytes of one worker that wait for the disk at most: twice what it has on the way when nothing is repeated.
MAX_WAITING_BYTES: Final = 2 * 1024 * 1024
#: Seconds between attempts to say of a log that it stays on its worker, while the one before it is not all here.
KEPT_RETRY_S: Final = 1.0

_Key = tuple[WorkerName, JobId, Fence]


@dataclass(frozen=True, slots=True)
class _Batch:
    """What is stored together."""

    chunks: dict[_Key, list[LogChunk]] = field(default_factory=dict)
    #: When the last chunk of each came, in the loop's time.
    arrived: dict[_Key, float] = field(default_factory=dict)
    #: Where every chunk and line goes; a place that is missing is not there yet.
    places: dict[_Key, Segment | Unwanted] = field(default_factory=dict)
    #: The last job of every file; those before it are closed.
    last: dict[str, Segment] = field(default_factory=dict)

    def put(self, key: _Key, place: Segment | Unwanted) -> None:
        """Take note of where something goes."""
        self.places[key] = place
        if isinstance(place, Segment):
            other = self.last.get(place.log_path)
            if other is None or other.job.sequence <= place.job.sequence:
                self.last[place.log_path] = place

    def is_last(self, place: Segment) -> bool:
        """Tell whether no later job of the batch has begun in the same file."""
        return self.last[place.log_path].job.id == place.job.id

    def writes(self, place: Segment) -> list[Write]:
        """Return what is to be written at a place; where a line comes first that is to be noted, nothing else."""
        chunks = () if place.job.stays_unsaid else self.chunks.get(_key(place), ())
        return [place.write_lead(), *(place.write(chunk.offset, chunk.body) for chunk in chunks)]


class LogReceiver:
    """Collects chunks while the disk is busy and stores them together: one sync per file and batch.

    What can never be stored is acknowledged too, so that its worker forgets it.
    """

    def __init__(
        self,
        store: LogStore,
        places: SegmentAllocator,
        *,
        acknowledge: Callable[[WorkerName, LogAck], object],
        changes: ChangeFeed,
    ) -> None:
        self._store = store
        self._places = places
        self._acknowledge = acknowledge
        self._changes = changes
        self._time = asyncio.get_running_loop().time
        self._waiting: deque[tuple[WorkerName, LogChunk, float]] = deque()
        self._waiting_bytes: Counter[WorkerName] = Counter()
        self._kept: dict[JobId, None] = {}
        self._troubles = StoreHealth(self._time)
        self._arrived = asyncio.Event()

    @property
    def problem(self) -> str | None:
        """Why logs cannot be stored now; None when they can."""
        return self._troubles.current()

    def put(self, worker: WorkerName, chunk: LogChunk) -> None:
        """Queue one chunk; a worker's chunks beyond its window are repeats, and dropped."""
        waiting = self._waiting_bytes[worker]
        if waiting and waiting + len(chunk.body) > MAX_WAITING_BYTES:
            return
        self._waiting_bytes[worker] += len(chunk.body)
        self._waiting.append((worker, chunk, self._time()))
        self._arrived.set()

    def started(self, job_id: JobId) -> None:
        """Say in the log of a job that has begun where it is, when it stays on its worker. Said once, it is said."""
        self._kept[job_id] = None
        self._arrived.set()

    async def stored(self, job_id: JobId) -> int:
        """Return how many bytes of the job's log are stored; see :meth:`SegmentAllocator.stored`."""
        return await self._places.stored(job_id)

    async def run(self) -> None:
        """Store chunks until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(KEPT_RETRY_S if self._kept else None):
                    await self._arrived.wait()
            self._arrived.clear()
            chunks = list(self._waiting)
            self._waiting.clear()
            self._waiting_bytes.clear()
            await self._store_batch(chunks)
            self._places.patience.paused = self.problem is not None

    async def _store_batch(self, chunks: list[tuple[WorkerName, LogChunk, float]]) -> None:
        """Store what can be stored. Workers keep what is not acknowledged, and send it again."""
        batch = _Batch()
        for worker, chunk, arrived in chunks:
            key = (worker, chunk.job_id, chunk.fence)
            batch.chunks.setdefault(key, []).append(chunk)
            batch.arrived[key] = arrived
        # Together, so that all logs that begin are noted by one commit.
        await asyncio.gather(
            *(self._find_kept(batch, job_id) for job_id in list(self._kept)),
            *(self._find(batch, key) for key in batch.chunks),
        )
        self._let_go(batch)
        if not batch.last:
            return
        appended = await self._append(batch)
        for log_path, reason in appended.failed.items():
            self._troubles.failed(log_path, reason)
        stored = [place for place in batch.last.values() if place.job.id in appended.stored]
        # A task only for those of which something is to be noted.
        for place in stored:
            if not place.job.stays_unsaid:
                await self._stored(batch, place, appended.stored[place.job.id])
        lines = [place for place in stored if place.job.stays_unsaid]
        await asyncio.gather(*(self._stored(batch, place, appended.stored[place.job.id]) for place in lines))
        grown = [place.log_path for place in stored]
        if grown:
            self._changes.notify(grown)

    async def _find(self, batch: _Batch, key: _Key) -> None:
        try:
            place = await self._places.find(*key)
        except (OSError, LedgerError) as error:
            self._troubles.failed(key[1], str(error))
            return
        if place is not None:
            batch.put(key, place)

    async def _find_kept(self, batch: _Batch, job_id: JobId) -> None:
        try:
            place = await self._places.find_kept(job_id)
        except (OSError, LedgerError) as error:
            self._troubles.failed(job_id, str(error))
            return
        if isinstance(place, Segment):
            batch.put(_key(place), place)
        elif place is not None:
            del self._kept[job_id]

    def _let_go(self, batch: _Batch) -> None:
        """Acknowledge what can never be stored."""
        for key, place in batch.places.items():
            if isinstance(place, Segment) and batch.is_last(place):
                continue
            size = place.job.log_size if isinstance(place, Segment) else place.log_size
            ends = [chunk.offset + len(chunk.body) for chunk in batch.chunks.get(key, ())]
            self._acknowledge_run(batch, key, max(size or 0, *ends, 0))

    async def _append(self, batch: _Batch) -> Appended:
        appended = await self._append_all(batch, list(batch.last.values()))
        moved: list[Segment] = []
        for log_path, found in appended.changed.items():
            try:
                place = await self._places.move(batch.last[log_path], found)
            except LedgerError as error:
                appended.failed[log_path] = str(error)
                continue
            if place is not None:
                moved.append(place)
        if moved:
            again = await self._append_all(batch, moved)
            appended.stored.update(again.stored)
            appended.failed.update(again.failed)
        return appended

    async def _append_all(self, batch: _Batch, places: list[Segment]) -> Appended:
        writes = [write for place in places for write in batch.writes(place)]
        return await asyncio.to_thread(self._store.append, writes)

    async def _stored(self, batch: _Batch, place: Segment, offset: int) -> None:
        try:
            await self._places.written(place.job.id)
        except LedgerError as error:
            self._troubles.failed(place.job.id, str(error))
            return
        self._kept.pop(place.job.id, None)
        self._troubles.over(place.log_path)
        self._troubles.over(place.job.id)
        if _key(place) in batch.chunks:
            self._acknowledge_run(batch, _key(place), offset)

    def _acknowledge_run(self, batch: _Batch, key: _Key, offset: int) -> None:
        worker, job_id, fence = key
        now = self._time()
        held_s = round(now - batch.arrived.get(key, now), 4)
        self._acknowledge(worker, LogAck(job_id=job_id, fence=fence, offset=offset, held_s=held_s))


def _key(place: Segment) -> _Key:
    return place.job.worker or WorkerName(""), place.job.id, place.job.fence
