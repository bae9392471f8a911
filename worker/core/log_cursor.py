"""What of a job's log is shipped, sent and stored. Offsets are bytes from the job's first byte."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from edge_mqtt.broker_bridge.protocol.limits import MAX_LOG_CHUNK_BYTES

#: Bytes of one job's log that may be on the way, unacknowledged.
JOB_WINDOW_BYTES: Final = 256 * 1024
#: Bytes of all logs of a worker that may be on the way.
WORKER_WINDOW_BYTES: Final = 1024 * 1024
#: Seconds without an acknowledgement after which what is on the way counts as lost, on top of those that it may take.
STALLED_AFTER_S: Final = 5.0
#: Bytes a second of the slowest link on which nothing is sent again while it is still being sent.
SLOW_LINK_BYTES_PER_S: Final = 16 * 1024
#: Bytes of log to one that travels, at worst: a short line is mostly header, and says nothing of what comes next.
WORST_COMPRESSION: Final = 0.9


def lost_at(now: float, on_the_way: int) -> float:
    """Return when what was sent just now counts as lost, unless something is acknowledged before.

    :param on_the_way: bytes of all logs: they take turns on the link.
    """
    return now + STALLED_AFTER_S + on_the_way / SLOW_LINK_BYTES_PER_S


@dataclass(frozen=True, kw_only=True, slots=True)
class ChunkInFlight:
    """Bytes of a log that are on the way."""

    #: The offset behind its last byte.
    end: int
    #: Bytes that travel, packed.
    packed: int
    #: Monotonic time in seconds.
    sent_at: float
    #: Packed bytes of all logs that were on the way then, its own included.
    on_the_way: int


@dataclass(slots=True)
class LogCursor:
    """One job's log. Advances on acknowledgement only; goes back when there is none."""

    #: The bridge has everything below.
    acked: int = 0
    #: Everything below has been sent on this connection.
    sent: int = 0
    #: Monotonic time in seconds at which what is on the way counts as lost.
    lost_at: float = 0.0
    #: What is on the way, in order.
    chunks: deque[ChunkInFlight] = field(default_factory=deque)
    #: Bytes of log to one that travels, of the last chunk.
    compression: float = 1.0
    #: What is below has been sent once: it is not known which of two sendings is acknowledged (Karn's rule).
    sent_once: int = 0

    @property
    def in_flight(self) -> int:
        """Bytes on the way."""
        return self.sent - self.acked

    @property
    def packed(self) -> int:
        """The same as they travel."""
        return sum(chunk.packed for chunk in self.chunks)

    def next_length(self, size: int, room: int, chunk_bytes: int) -> int:
        """Return how many bytes to send from ``sent`` on; 0 for none now.

        :param size: bytes that the log has.
        :param room: bytes that the worker's window has left.
        :param chunk_bytes: bytes that they should have when they are packed.
        """
        most = min(MAX_LOG_CHUNK_BYTES, int(chunk_bytes * self.compression))
        return max(0, min(most, size - self.sent, JOB_WINDOW_BYTES - self.in_flight, room))

    def record_sent(self, length: int, lost_at: float) -> None:
        """Take note that ``length`` bytes are on their way.

        :param lost_at: see :func:`lost_at`; counts when nothing was on the way.
        """
        if self.in_flight == 0:
            self.lost_at = lost_at
        self.sent += length

    def record_sent_chunk(self, length: int, *, packed: int, now: float, on_the_way: int) -> None:
        """Take note of how the last ``length`` bytes travel: see :class:`ChunkInFlight`.

        :param on_the_way: packed bytes of all logs that were on the way before.
        """
        self.compression = max(length / packed, WORST_COMPRESSION)
        self.chunks.append(ChunkInFlight(end=self.sent, packed=packed, sent_at=now, on_the_way=on_the_way + packed))

    def pop_acked(self, offset: int) -> ChunkInFlight | None:
        """Take off what has arrived, up to ``offset``; return the last chunk of it unless it was sent twice."""
        last = None
        while self.chunks and self.chunks[0].end <= offset:
            last = self.chunks.popleft()
        if last is None or last.end <= self.sent_once:
            return None
        return last

    def record_ack(self, offset: int, lost_at: float) -> bool:
        """Take note that the bridge has everything below ``offset``; tell whether that was news.

        :param lost_at: see :func:`lost_at`, of what is still on the way.

        Acknowledgements of one connection come in order: a lower one means that the bridge's file has become shorter.
        """
        if offset < self.acked:
            self.resume_at(offset)
            return True
        if offset == self.acked:
            return False
        self.acked = offset
        self.sent = max(self.sent, offset)
        self.lost_at = lost_at
        return True

    def resume_at(self, offset: int) -> None:
        """Go on from where the bridge says, which may be before what it once had."""
        self._forget_chunks()
        self.acked = self.sent = offset

    def rewind_if_stalled(self, now: float) -> bool:
        """Go back to what is acknowledged when nothing was for too long; tell whether it was so."""
        if self.in_flight > 0 and now >= self.lost_at:
            self._forget_chunks()
            self.sent = self.acked
            return True
        return False

    def _forget_chunks(self) -> None:
        self.sent_once = max(self.sent_once, self.sent)
        self.chunks.clear()
