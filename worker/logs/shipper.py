"""Ships task logs: the files' own bytes, by offset, as soon as they are written, no more than the windows allow."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import LogAck, LogChunk, LogPosition
from edge_mqtt.broker_bridge.transport.congestion import CongestionWindow
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.log_cursor import WORKER_WINDOW_BYTES, lost_at
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.logs.file_shares import FileShares
from edge_mqtt.worker.logs.inotify_watch import InotifyWatch
from edge_mqtt.worker.logs.log_file import LogFile
from edge_mqtt.worker.logs.shipped_log import LogEnd, ShippedLog
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)


class LogShipper:
    """Ships the logs of this worker's jobs."""

    def __init__(
        self, link: Link, path_of: Callable[[LocalJob], Path | None], timing: WorkerTiming | None = None
    ) -> None:
        self._link = link
        self._path_of = path_of
        self._timing = timing or WorkerTiming()
        #: Those that were served last are last.
        self._logs: dict[JobId, ShippedLog] = {}
        self._shares = FileShares()
        self._window = CongestionWindow()
        self._wake = asyncio.Event()
        self._time = asyncio.get_running_loop().time
        self._watch: InotifyWatch | None = None
        #: Something is known to have happened since the last look.
        self._look_wanted = False
        self._looked_at = -self._timing.log_pace_s

    def follow_log(self, job: LocalJob) -> None:
        """Begin with a job that is launched, or was by the worker before this one; unless its log stays here."""
        path = self._path_of(job)
        if path is None or job.job_id in self._logs:
            return
        if not job.ships_log:
            self._shares.keep(path)
            return
        final = None if job.result is None else job.result.log_size
        shipped = self._logs[job.job_id] = ShippedLog(
            job_id=job.job_id,
            file=LogFile(path),
            fence=job.fence,
            base=job.log_base,
            launch=job.launch,
            final_size=final,
            has_ended=job.result is not None,
        )
        self._shares.join(shipped)
        self._want_look()

    def end_log(self, job: LocalJob) -> LogEnd:
        """Let the log of a job end, whose processes have, with what is in the file. Once."""
        shipped = self._logs.get(job.job_id)
        if shipped is None:
            return LogEnd(base=job.log_base, size=0)
        if not shipped.rides:
            self._look_at_log(shipped)
        shipped.finish()
        return LogEnd(base=shipped.base, size=shipped.seen)

    def finish_log(self, job: LocalJob) -> None:
        """Take note that it is stored where a job's log ends; what is written from now on is others'."""
        shipped = self._logs.get(job.job_id)
        if shipped is not None and job.result is not None:
            shipped.has_ended = True
            shipped.file.close_if_unmoved()
            self._unwatch(shipped)
            self._shares.end(shipped)
            # Nothing more will be written of it: what there is need not wait for the next look.
            self._want_look()

    def is_copied(self, job_id: JobId) -> bool:
        """Tell whether the centre has all that is in a job's file, and no other job's log is in it any more."""
        shipped = self._logs.get(job_id)
        return shipped is not None and self._shares.is_copied(shipped)

    def find_writers(self, job_id: JobId) -> tuple[JobId, ...]:
        """Return the jobs whose log is in the same file as a job's, itself included."""
        shipped = self._logs.get(job_id)
        return () if shipped is None else tuple(each.job_id for each in self._shares.writers(shipped))

    def find_successor(self, job_id: JobId) -> ShippedLog | None:
        """Return the log that has what is written to a job's file by now; None when there is no other."""
        shipped = self._logs.get(job_id)
        return None if shipped is None else self._shares.find_successor(shipped)

    def forget_log(self, job_id: JobId) -> None:
        """Stop shipping a job's log."""
        shipped = self._logs.pop(job_id, None)
        if shipped is not None:
            shipped.file.close()
            self._unwatch(shipped)
            self._shares.leave(shipped)
            self._want_look()

    def is_stored(self, job_id: JobId) -> bool:
        """Tell whether the bridge has the whole log of a job that has ended."""
        shipped = self._logs.get(job_id)
        return shipped is None or (shipped.is_shipped and self._shares.is_passed(shipped))

    def record_ack(self, ack: LogAck) -> None:
        """Take note of what the bridge has of a run's log; what an earlier run is told is ignored."""
        shipped = self._logs.get(ack.job_id)
        if shipped is None or shipped.fence != ack.fence:
            return
        if ack.stored:
            shipped.stored = ack.offset
        else:
            shipped.is_only_copy = True
        now = self._time()
        chunk = shipped.cursor.pop_acked(ack.offset)
        if chunk is not None:
            self._window.record_ack(sent_at=chunk.sent_at, now=now, held_s=ack.held_s, on_the_way=chunk.on_the_way)
        if shipped.cursor.record_ack(ack.offset, lost_at(now, self._on_the_way())):
            self._wake.set()

    def resume_logs(self, positions: Iterable[LogPosition]) -> None:
        """Go on on a new connection: from where the bridge says, else from what it has acknowledged."""
        self._window = CongestionWindow()
        wanted = {position.job_id: position.offset for position in positions}
        for job_id, shipped in self._logs.items():
            shipped.cursor.resume_at(wanted.get(job_id, shipped.cursor.acked))
            shipped.stored = wanted.get(job_id, shipped.stored)
        self._want_look()

    async def run(self) -> None:
        """Ship for ever. Sleeps while nothing is written."""
        try:
            self._watch = InotifyWatch(self._want_look)
        except OSError as error:
            log.warning("log files are looked at often: no inotify: %s", error, extra={"action": "no_inotify"})
        try:
            while True:
                await self._run_round()
        finally:
            for shipped in self._logs.values():
                shipped.file.close()
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    def _want_look(self) -> None:
        self._look_wanted = True
        self._wake.set()

    async def _run_round(self) -> None:
        self._wake.clear()
        if self._link.ready:
            if self._seconds_to_look() <= 0:
                self._measure_logs()
            self._send_chunks()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._idle_wait_s()):
                await self._wake.wait()
            # Acknowledgements come in bursts: one round for all of them.
            await asyncio.sleep(0)

    def _seconds_to_look(self) -> float:
        """Return the seconds until the next look."""
        if self._look_wanted:
            wait_s = self._timing.log_pace_s
        else:
            wait_s = (
                self._timing.watched_log_look_s
                if all(shipped.watch is not None for shipped in self._unfinished())
                else self._timing.log_look_s
            )
        return self._looked_at + wait_s - self._time()

    def _idle_wait_s(self) -> float | None:
        """Return the seconds until something may have to be done without being told; None: for ever."""
        if not self._link.ready or all(shipped.is_shipped for shipped in self._logs.values()):
            return None
        return max(0.0, self._seconds_to_look())

    def _unfinished(self) -> Iterator[ShippedLog]:
        return (shipped for shipped in self._logs.values() if shipped.final_size is None and not shipped.rides)

    def _measure_logs(self) -> None:
        """See how much there is."""
        self._look_wanted = False
        self._looked_at = self._time()
        if self._watch is not None:
            # First, so that nothing written from here on goes unnoticed.
            self._watch.listen()
        for shipped in self._logs.values():
            if shipped.rides:
                continue
            if shipped.watch is None and shipped.final_size is None and self._watch is not None:
                shipped.watch = self._watch.add(shipped.file.path)
            self._look_at_log(shipped)

    def _look_at_log(self, shipped: ShippedLog) -> None:
        """See how much of a log there is."""
        try:
            shipped.seen = shipped.size()
        except OSError as error:
            self._warn_unreadable(shipped, error)

    def _warn_unreadable(self, shipped: ShippedLog, error: OSError) -> None:
        if not shipped.is_unreadable:
            shipped.is_unreadable = True
            log.error(
                "log of %s cannot be read, which is tried again: %s",
                shipped.job_id,
                error.strerror,
                extra={"action": "log_unreadable", "job_id": shipped.job_id, "offset": shipped.cursor.sent},
            )

    def _unwatch(self, shipped: ShippedLog) -> None:
        if self._watch is not None and shipped.watch is not None:
            self._watch.remove(shipped.watch)
        shipped.watch = None

    def ship(self) -> None:
        """Look at the files and send what the windows allow."""
        self._measure_logs()
        self._send_chunks()

    def _send_chunks(self) -> None:
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
        self._window.give_way(now, to_others=self._link.is_busy)
        room = WORKER_WINDOW_BYTES - self._on_the_way()
        waiting = deque(self._logs.items())
        while waiting and self._window.admits(self._packed_on_the_way()):
            job_id, shipped = waiting.popleft()
            sent = self._send_chunk(job_id, shipped, room)
            if sent > 0:
                room -= sent
                # The next time, too, it is the others' turn first.
                self._logs[job_id] = self._logs.pop(job_id)
                waiting.append((job_id, shipped))

    def _on_the_way(self) -> int:
        return sum(shipped.cursor.in_flight for shipped in self._logs.values())

    def _packed_on_the_way(self) -> int:
        return sum(shipped.cursor.packed for shipped in self._logs.values())

    def _send_chunk(self, job_id: JobId, shipped: ShippedLog, room: int) -> int:
        cursor = shipped.cursor
        length = cursor.next_length(shipped.seen, room, self._window.chunk_bytes)
        if length == 0:
            return 0
        try:
            if shipped.is_cut():
                if cursor.in_flight:
                    # Of the old file, and it may have to be sent again.
                    return 0
                shipped.restart_at_cut()
                log.warning(
                    "the log file of %s was cut off: what it has now is shipped after what it had",
                    job_id,
                    extra={"action": "log_cut", "job_id": job_id, "offset": cursor.sent},
                )
            body = shipped.read(length)
        except FileNotFoundError:
            body = b""
        except OSError as error:
            self._warn_unreadable(shipped, error)
            return 0
        shipped.is_unreadable = False
        body = _whole_lines(body) if cursor.sent + len(body) < shipped.seen else body
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
        cursor.record_sent(len(body), lost_at(now, self._on_the_way() + len(body)))
        cursor.record_sent_chunk(len(body), packed=packed, now=now, on_the_way=before)
        return len(body)


def _whole_lines(body: bytes) -> bytes:
    """Return what goes no further than the last line's end, behind which others may write; all of a long line."""
    return body[: body.rfind(b"\n") + 1] or body
