"""Log shipping. A thin model of ``worker/log_shipping.py`` around the real ``LogCursor``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import LogChunk, LogPosition
from edge_mqtt.worker.core.jobs import HeldByUs
from edge_mqtt.worker.core.log_cursor import WORKER_WINDOW_BYTES, LogCursor
from tests.simulation.clock import Event, Shell

if TYPE_CHECKING:
    from tests.simulation.worker import Worker

#: Seconds between looks at what is not acknowledged.
LOOK_S: Final = 2.0


@dataclass
class _Log:
    path: str
    base: int
    cursor: LogCursor = field(default_factory=LogCursor)
    final_size: int | None = None


class LogShipper:
    """Ships the logs of one worker's jobs, for one life of it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._life = worker.life
        self._files = worker.machine.logs
        self._logs: dict[JobId, _Log] = {}
        self._news = Event()

    def wake(self) -> None:
        """Look soon."""
        self._news.set()

    def follow(self, job: HeldByUs) -> None:
        """Begin with a job."""
        path = job.spec.log_path
        if path is not None and job.job_id not in self._logs:
            final = None if job.result is None else job.result.log_size
            self._logs[job.job_id] = _Log(path=path, base=job.log_base, final_size=final)
            self.wake()

    def ended(self, job: HeldByUs) -> None:
        """Take note that a job's log is complete."""
        shipped = self._logs.get(job.job_id)
        if shipped is not None and job.result is not None:
            shipped.final_size = job.result.log_size
            self.wake()

    def forget(self, job_id: JobId) -> None:
        """Stop shipping a job's log."""
        self._logs.pop(job_id, None)

    def stored(self, job_id: JobId) -> bool:
        """Tell whether the centre has the whole log of a job that has ended."""
        shipped = self._logs.get(job_id)
        return shipped is None or (shipped.final_size is not None and shipped.cursor.acked >= shipped.final_size)

    def acknowledge(self, job_id: JobId, offset: int) -> None:
        """Take note of what the centre has."""
        shipped = self._logs.get(job_id)
        if shipped is not None and shipped.cursor.acknowledge(offset, self._worker.world.clock.now):
            self.wake()

    def resume(self, positions: Iterable[LogPosition]) -> None:
        """Go on on a new connection."""
        wanted = {position.job_id: position.offset for position in positions}
        for job_id, shipped in self._logs.items():
            shipped.cursor.resume(wanted.get(job_id, shipped.cursor.acked))
        self.wake()

    def run(self) -> Shell:
        """Ship for ever."""
        while True:
            yield self._news.within(self._life, LOOK_S)
            self._news = Event()
            yield self._life.sleep(0.05)
            if self._worker.ready:
                self._ship()

    def _ship(self) -> None:
        now = self._worker.world.clock.now
        for shipped in self._logs.values():
            shipped.cursor.rewind_if_stalled(now)
        room = WORKER_WINDOW_BYTES - sum(shipped.cursor.in_flight for shipped in self._logs.values())
        hungry = dict(self._logs)
        while hungry and room > 0:
            for job_id, shipped in list(hungry.items()):
                sent = self._send_chunk(job_id, shipped, room)
                room -= sent
                if sent == 0:
                    del hungry[job_id]

    def _send_chunk(self, job_id: JobId, shipped: _Log, room: int) -> int:
        cursor, file = shipped.cursor, self._files.get(shipped.path, bytearray())
        size = max(0, len(file) - shipped.base) if shipped.final_size is None else shipped.final_size
        length = cursor.next_length(size, room)
        if length == 0:
            return 0
        begin = shipped.base + cursor.sent
        body = bytes(file[begin : begin + length])
        chunk = LogChunk(job_id=job_id, offset=cursor.sent, body=body)
        if not body or not self._worker.send(self._worker.topics.log(self._worker.name, job_id), chunk):
            return 0
        cursor.advance(len(body), self._worker.world.clock.now)
        return len(body)
