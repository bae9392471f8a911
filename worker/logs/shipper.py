"""Ships task logs: the files' own bytes, by offset, as soon as they are written, no more than the windows allow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import LogAck, LogChunk, LogPosition
from edge_mqtt.worker.core.congestion import CongestionWindow
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.log_cursor import WORKER_WINDOW_BYTES, LogCursor, lost_at
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.logs.inotify_watch import LogWatch
from edge_mqtt.worker.logs.log_file import LogFile

log = logging.getLogger(__name__)

#: Seconds between looks at a file that is not watched: it is not there yet, or there is no inotify.
LOOK_S: Final = 0.05
#: Seconds between looks at files that are watched, while jobs run: for what a watch does not see (network mounts).
WATCHED_LOOK_S: Final = 5.0
#: Seconds from one look to the next at least: what is written meanwhile travels together. Lines that come one by one
#: do not wait.
PACE_S: Final = 0.05


@dataclass(slots=True)
class _Log:
    """One job's log."""

    file: LogFile
    fence: Fence
    #: Where the job's first byte stands in the file; below 0 when the file has been cut off since.
    base: int
    cursor: LogCursor = field(default_factory=LogCursor)
    #: Bytes of the whole log once the job has ended.
    final_size: int | None = None
    #: Bytes that the log had when it was looked at last.
    seen: int = 0
    #: The file's watch.
    watch: int | None = None
    #: It is there and cannot be read; this has been said.
    unreadable: bool = False

    @property
    def over(self) -> bool:
        """Whether the centre has the whole log of a job that has ended."""
        return self.final_size is not None and self.cursor.acked >= self.final_size

    def size(self) -> int:
        """Return the bytes that the log has, those included that the file has lost.

        :raises OSError: nobody can tell.
        """
        if self.final_size is not None:
            return self.final_size
        size = self.file.size()
        return self.cursor.sent + size if self._is_cut(size) else size - self.base

    def is_cut(self) -> bool:
        """Tell whether the file has become shorter than what was shipped of it.

        :raises OSError: nobody can tell.
        """
        return self._is_cut(self.file.size())

    def start_over(self) -> None:
        """Take what a shortened file has now for what comes next."""
        self.base = -self.cursor.sent

    def read(self, length: int) -> bytes:
        try:
            return self.file.read(length, self.base + self.cursor.sent)
        finally:
            if self.final_size is not None:
                self.file.let_go()

    def _is_cut(self, size: int) -> bool:
        return not 0 <= self.base + self.cursor.sent <= size


class LogShipper:
    """Ships the logs of this worker's jobs."""

    def __init__(self, link: Link, path_of: Callable[[LocalJob], Path | None]) -> None:
        self._link = link
        self._path_of = path_of
        #: Those that were served last are last.
        self._logs: dict[JobId, _Log] = {}
        self._window = CongestionWindow()
        self._wake = asyncio.Event()
        self._time = asyncio.get_running_loop().time
        self._watch: LogWatch | None = None
        #: Something is known to have happened since the last look.
        self._look_wanted = False
        self._looked_at = -PACE_S

    def follow(self, job: LocalJob) -> None:
        """Begin with a job that is launched, or was by the worker before this one; unless its log stays here."""
        path = self._path_of(job)
        if path is None or not job.ships_log or job.job_id in self._logs:
            return
        final = None if job.result is None else job.result.log_size
        self._logs[job.job_id] = _Log(file=LogFile(path), fence=job.fence, base=job.log_base, final_size=final)
        self._want_look()

    def ended(self, job: LocalJob) -> None:
        """Take note that a job's log is complete."""
        shipped = self._logs.get(job.job_id)
        if shipped is not None and job.result is not None:
            # Nothing more will be written: what there is need not wait for the next look.
            shipped.seen = shipped.final_size = job.result.log_size
            shipped.file.let_go()
            self._unwatch(shipped)
            self._wake.set()

    def size(self, job_id: JobId) -> int:
        """Return the bytes of a job's log by now, those included that its file has lost; 0 if none is shipped."""
        shipped = self._logs.get(job_id)
        if shipped is not None:
            self._measure(job_id, shipped)
        return 0 if shipped is None else shipped.seen

    def forget(self, job_id: JobId) -> None:
        """Stop shipping a job's log."""
        shipped = self._logs.pop(job_id, None)
        if shipped is not None:
            shipped.file.close()
            self._unwatch(shipped)

    def stored(self, job_id: JobId) -> bool:
        """Tell whether the centre has the whole log of a job that has ended."""
        shipped = self._logs.get(job_id)
        return shipped is None or shipped.over

    def acknowledge(self, ack: LogAck) -> None:
        """Take note of what the centre has of a run's log; what an earlier run is told is ignored."""
        shipped = self._logs.get(ack.job_id)
        if shipped is None or shipped.fence != ack.fence:
            return
        now = self._time()
        piece = shipped.cursor.take(ack.offset)
        if piece is not None:
            self._window.measured(sent_at=piece.sent_at, now=now, held_s=ack.held_s, on_the_way=piece.on_the_way)
        if shipped.cursor.acknowledge(ack.offset, lost_at(now, self._on_the_way())):
            self._wake.set()

    def resume(self, positions: Iterable[LogPosition]) -> None:
        """Go on on a new connection: from where the centre says, else from what it has acknowledged."""
        self._window = CongestionWindow()
        wanted = {position.job_id: position.offset for position in positions}
        for job_id, shipped in self._logs.items():
            shipped.cursor.resume(wanted.get(job_id, shipped.cursor.acked))
        self._want_look()

    async def run(self) -> None:
        """Ship for ever. Sleeps while nothing is written."""
        try:
            self._watch = LogWatch(self._want_look)
        except OSError as error:
            log.warning("log files are looked at often: no inotify: %s", error, extra={"action": "no_inotify"})
        try:
            while True:
                await self._round()
        finally:
            for shipped in self._logs.values():
                shipped.file.close()
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    def _want_look(self) -> None:
        self._look_wanted = True
        self._wake.set()

    async def _round(self) -> None:
        self._wake.clear()
        if self._link.ready:
            if self._look_in() <= 0:
                self._look()
            self._send()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s()):
                await self._wake.wait()
            # Acknowledgements come in bursts: one round for all of them.
            await asyncio.sleep(0)

    def _look_in(self) -> float:
        """Return the seconds until the next look."""
        if self._look_wanted:
            wait_s = PACE_S
        else:
            wait_s = WATCHED_LOOK_S if all(shipped.watch is not None for shipped in self._unfinished()) else LOOK_S
        return self._looked_at + wait_s - self._time()

    def _patience_s(self) -> float | None:
        """Return the seconds until something may have to be done that nobody tells of; None: for ever."""
        if not self._link.ready or all(shipped.over for shipped in self._logs.values()):
            return None
        return max(0.0, self._look_in())

    def _unfinished(self) -> Iterator[_Log]:
        return (shipped for shipped in self._logs.values() if shipped.final_size is None)

    def _look(self) -> None:
        """See how much there is."""
        self._look_wanted = False
        self._looked_at = self._time()
        if self._watch is not None:
            # First, so that nothing written from here on goes unnoticed.
            self._watch.listen()
        for job_id, shipped in self._logs.items():
            if shipped.watch is None and shipped.final_size is None and self._watch is not None:
                shipped.watch = self._watch.add(shipped.file.path)
            self._measure(job_id, shipped)

    def _measure(self, job_id: JobId, shipped: _Log) -> None:
        """See how much of a log there is."""
        try:
            shipped.seen = shipped.size()
        except OSError as error:
            self._say_unreadable(job_id, shipped, error)

    def _say_unreadable(self, job_id: JobId, shipped: _Log, error: OSError) -> None:
        if not shipped.unreadable:
            shipped.unreadable = True
            log.error(
                "log of %s cannot be read, which is tried again: %s",
                job_id,
                error.strerror,
                extra={"action": "log_unreadable", "job_id": job_id, "offset": shipped.cursor.sent},
            )

    def _unwatch(self, shipped: _Log) -> None:
        if self._watch is not None and shipped.watch is not None:
            self._watch.remove(shipped.watch)
        shipped.watch = None

    def ship(self) -> None:
        """Look at the files and send what the windows allow."""
        self._look()
        self._send()

    def _send(self) -> None:
        """Send of what was seen what the windows allow, a chunk of every log in turn."""
        now = self._time()
        for job_id, shipped in self._logs.items():
            if shipped.cursor.rewind_if_stalled(now):
                self._window = CongestionWindow()
                log.warning(
                    "log of %s was not acknowledged, sending it again",
                    job_id,
                    extra={"action": "log_rewound", "job_id": job_id, "offset": shipped.cursor.acked},
                )
        room = WORKER_WINDOW_BYTES - self._on_the_way()
        hungry = deque(self._logs.items())
        while hungry and self._window.admits(self._packed_on_the_way()):
            job_id, shipped = hungry.popleft()
            sent = self._send_chunk(job_id, shipped, room)
            if sent > 0:
                room -= sent
                # The next time, too, it is the others' turn first.
                self._logs[job_id] = self._logs.pop(job_id)
                hungry.append((job_id, shipped))

    def _on_the_way(self) -> int:
        return sum(shipped.cursor.in_flight for shipped in self._logs.values())

    def _packed_on_the_way(self) -> int:
        return sum(shipped.cursor.packed for shipped in self._logs.values())

    def _send_chunk(self, job_id: JobId, shipped: _Log, room: int) -> int:
        cursor = shipped.cursor
        length = cursor.next_length(shipped.seen, room, self._window.piece)
        if length == 0:
            return 0
        try:
            if shipped.is_cut():
                if cursor.in_flight:
                    # Of the old file, and it may have to be sent again.
                    return 0
                shipped.start_over()
                log.warning(
                    "the log file of %s was cut off: what it has now is shipped after what it had",
                    job_id,
                    extra={"action": "log_cut", "job_id": job_id, "offset": cursor.sent},
                )
            body = shipped.read(length)
        except FileNotFoundError:
            body = b""
        except OSError as error:
            self._say_unreadable(job_id, shipped, error)
            return 0
        shipped.unreadable = False
        if not body:
            # The file is shorter than it was: what is gone cannot be shipped.
            if shipped.final_size is not None:
                shipped.seen = shipped.final_size = cursor.sent
            return 0
        chunk = LogChunk(job_id=job_id, fence=shipped.fence, offset=cursor.sent, body=body)
        before = self._packed_on_the_way()
        packed = self._link.send_log(job_id, chunk)
        if not packed:
            return 0
        now = self._time()
        cursor.advance(len(body), lost_at(now, self._on_the_way() + len(body)))
        cursor.note(len(body), packed=packed, now=now, on_the_way=before)
        return len(body)
