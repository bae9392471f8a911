"""What of a job's log is shipped, sent and stored. Offsets are bytes from the job's first byte."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Bytes of one chunk: small enough that a job's messages never wait long behind it on a slow link.
CHUNK_BYTES: Final = 64 * 1024
#: Bytes of one job's log that may be on the way, unacknowledged.
JOB_WINDOW_BYTES: Final = 256 * 1024
#: Bytes of all logs of a worker that may be on the way.
WORKER_WINDOW_BYTES: Final = 1024 * 1024
#: Seconds without an acknowledgement after which what is on the way counts as lost, on top of those that it may take.
STALLED_AFTER_S: Final = 5.0
#: Bytes a second of the slowest link on which nothing is sent again while it is still being sent.
SLOW_LINK_BYTES_PER_S: Final = 16 * 1024


def lost_at(now: float, on_the_way: int) -> float:
    """Return when what was sent just now counts as lost, unless something is acknowledged before.

    :param on_the_way: bytes of all logs: they take turns on the link.
    """
    return now + STALLED_AFTER_S + on_the_way / SLOW_LINK_BYTES_PER_S


@dataclass(slots=True)
class LogCursor:
    """One job's log. Advances on acknowledgement only; goes back when there is none."""

    #: The centre has everything below.
    acked: int = 0
    #: Everything below has been sent on this connection.
    sent: int = 0
    #: Monotonic time in seconds at which what is on the way counts as lost.
    lost_at: float = 0.0

    @property
    def in_flight(self) -> int:
        """Bytes on the way."""
        return self.sent - self.acked

    def next_length(self, size: int, room: int) -> int:
        """Return how many bytes to send from ``sent`` on; 0 for none now.

        :param size: bytes that the log has.
        :param room: bytes that the worker's window has left.
        """
        return max(0, min(CHUNK_BYTES, size - self.sent, JOB_WINDOW_BYTES - self.in_flight, room))

    def advance(self, length: int, lost_at: float) -> None:
        """Take note that ``length`` bytes are on their way.

        :param lost_at: see :func:`lost_at`; counts when nothing was on the way.
        """
        if self.in_flight == 0:
            self.lost_at = lost_at
        self.sent += length

    def acknowledge(self, offset: int, lost_at: float) -> bool:
        """Take note that the centre has everything below ``offset``; tell whether that was news.

        :param lost_at: see :func:`lost_at`, of what is still on the way.

        Acknowledgements of one connection come in order: a lower one means that the centre's file has become shorter.
        """
        if offset < self.acked:
            self.resume(offset)
            return True
        if offset == self.acked:
            return False
        self.acked = offset
        self.sent = max(self.sent, offset)
        self.lost_at = lost_at
        return True

    def resume(self, offset: int) -> None:
        """Go on from where the centre says, which may be before what it once had."""
        self.acked = self.sent = offset

    def rewind_if_stalled(self, now: float) -> bool:
        """Go back to what is acknowledged when nothing was for too long; tell whether it was so."""
        if self.in_flight > 0 and now >= self.lost_at:
            self.sent = self.acked
            return True
        return False
