"""How much may be on the way: what the link carries without a queue that other messages would wait in. Pure.

For logs, and for messages in fragments. Delay-based, as LEDBAT (RFC 6817): what a chunk takes from its sending to its
acknowledgement is compared with what it takes on the empty link. What was on the way, divided by that time, is the
link's rate, so one measurement tells how much is right, however far it is from that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

#: Bytes on the link at least, so that what waits always moves, and at most; packed, as they travel.
SMALLEST_WINDOW_BYTES: Final = 4 * 1024
LARGEST_WINDOW_BYTES: Final = 1024 * 1024
#: The same on a link of which nothing is known.
FIRST_WINDOW_BYTES: Final = 16 * 1024
#: Chunks that a full window has at least.
CHUNKS_PER_WINDOW: Final = 4
#: Bytes of a chunk at least: smaller ones would be headers more than anything else.
SMALLEST_CHUNK_BYTES: Final = 2 * 1024
#: Seconds that a chunk, and whatever is sent behind it, may wait for what is before it. RFC 6817 allows 0.1; a job's
#: start and end pass the queue once each, and together must not take long.
QUEUE_TARGET_S: Final = 0.05
#: Seconds of a queue that is none, but the scatter of an empty link.
NO_QUEUE_S: Final = QUEUE_TARGET_S / 4
#: Measurements that one decision is made of at least; the best counts, for a single one may be late for many reasons.
MEASUREMENTS: Final = 4
#: Seconds that a chunk takes at least, as far as this can be measured.
SHORTEST_S: Final = 1e-6
#: Seconds after which the empty link is measured anew, with little on the way: the route may be another one.
EMPTY_FOR_S: Final = 30.0
#: Measurements of the empty link, of which the shortest counts.
EMPTY_MEASUREMENTS: Final = 3


@dataclass(slots=True)
class CongestionWindow:
    """One connection's window, in bytes as they travel."""

    _size: float = FIRST_WINDOW_BYTES
    #: Nothing but growth so far: it may double.
    _beginning: bool = True
    #: When the window was set; what was sent before says nothing about it.
    _set_at: float = -math.inf
    #: What was measured since: how much might be on the way, how long the queue was, and how many times larger the
    #: window might be; of a window that was not full this is not known.
    _best: float = 0.0
    _shortest_queue_s: float = math.inf
    _growth: float = 0.0
    _measured: int = 0
    #: When that began: it goes on for a round at least, as chunks that were sent at once have queued for each other.
    _round_at: float = math.inf
    #: Seconds that a chunk takes on the empty link, and when that was measured.
    _empty_s: float = math.inf
    _empty_at: float = -math.inf
    #: Seconds that the bridge took to store the last chunk.
    _held_s: float = 0.0
    #: While it is measured anew: seconds of each chunk that had the link for itself.
    _empty: list[float] = field(default_factory=list)
    _is_emptying: bool = False
    #: Others use the link: as little as may be, and nothing is measured.
    _gives_way: bool = False

    @property
    def size(self) -> int:
        """Bytes that may be on the way."""
        return SMALLEST_WINDOW_BYTES if self._is_emptying or self._gives_way else int(self._size)

    @property
    def chunk_bytes(self) -> int:
        """Bytes that one chunk should have."""
        # Others wait for a whole chunk: it may have no more of the time than the queue.
        share = QUEUE_TARGET_S / 2 / (self._empty_s + QUEUE_TARGET_S + self._held_s)
        return max(SMALLEST_CHUNK_BYTES, int(self.size * min(share, 1 / CHUNKS_PER_WINDOW)))

    def admits(self, on_the_way: int) -> bool:
        """Tell whether another chunk may be sent."""
        return on_the_way + self.chunk_bytes <= self.size

    def give_way(self, now: float, *, to_others: bool) -> None:
        """Take as little of the link as may be while others use it, and go on as before when they do not.

        :param now: monotonic time in seconds.
        """
        if self._gives_way and not to_others:
            # What is acknowledged from here on has waited for what the others sent.
            self._set_at = now
            self._begin_round()
        self._gives_way = to_others

    def record_ack(self, *, sent_at: float, now: float, held_s: float, on_the_way: int) -> None:
        """Take note that a chunk has been acknowledged.

        :param sent_at: monotonic time in seconds.
        :param held_s: seconds that the bridge took to store it: not the link's.
        :param on_the_way: bytes, once it was sent and itself included.
        """
        if self._gives_way:
            return
        link_s, self._held_s = max(0.0, now - sent_at - held_s), held_s
        self._measure_empty(link_s, now, on_the_way)
        if self._is_emptying or sent_at < self._set_at:
            return
        times = (self._empty_s + QUEUE_TARGET_S + held_s) / max(link_s + held_s, SHORTEST_S)
        self._best = max(self._best, on_the_way * times)
        self._shortest_queue_s = min(self._shortest_queue_s, link_s - self._empty_s)
        if not self.admits(on_the_way):
            self._growth = max(self._growth, times)
        self._measured += 1
        self._round_at = min(self._round_at, now)
        if self._measured >= MEASUREMENTS and sent_at >= self._round_at:
            self._decide(now)

    def _measure_empty(self, link_s: float, now: float, on_the_way: int) -> None:
        if link_s <= self._empty_s:
            self._empty_s, self._empty_at = link_s, now
        elif now - self._empty_at >= EMPTY_FOR_S:
            self._is_emptying = True
        if self._is_emptying and on_the_way <= SMALLEST_WINDOW_BYTES:
            self._empty.append(link_s)
            if len(self._empty) == EMPTY_MEASUREMENTS:
                self._empty_s, self._empty_at = min(self._empty), now
                self._is_emptying = False
                self._empty.clear()
                self._begin_round()
                self._set_at = now

    def _decide(self, now: float) -> None:
        self._beginning &= self._shortest_queue_s <= NO_QUEUE_S
        if self._shortest_queue_s > QUEUE_TARGET_S:
            # The little that is left cannot be the queue: the route has become longer, or others use it.
            self._is_emptying = self._size <= SMALLEST_WINDOW_BYTES
            self._set(self._best, now)
        elif self._growth > 1.0:
            # What is too much is seen a round later: no more than double.
            self._set(self._size * (2.0 if self._beginning else min(self._growth, 2.0)), now)
        self._begin_round()

    def _begin_round(self) -> None:
        self._best, self._shortest_queue_s, self._growth = 0.0, math.inf, 0.0
        self._measured, self._round_at = 0, math.inf

    def _set(self, size: float, now: float) -> None:
        self._size = min(max(size, SMALLEST_WINDOW_BYTES), LARGEST_WINDOW_BYTES)
        self._set_at = now
