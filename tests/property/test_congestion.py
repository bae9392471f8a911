"""The window of logs finds what a link carries, whatever the link, and leaves no queue that others would wait in."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from statistics import median

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.transport.congestion import (
    EMPTY_FOR_S,
    LARGEST_WINDOW_BYTES,
    QUEUE_TARGET_S,
    SMALLEST_WINDOW_BYTES,
    CongestionWindow,
)

# Many links are tried, which takes a busy machine minutes when its coverage is measured.
pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Sent:
    at: float
    acknowledged: float
    on_the_way: int
    queue_s: float


class Link:
    """A line of one rate with a queue before it, a way there and back, and a centre that takes its time to store."""

    def __init__(
        self, *, bytes_per_s: float, rtt_s: float, held_s: float = 0.0, jitter_s: float = 0.0, stall_s: float = 0.0
    ) -> None:
        self.bytes_per_s, self.rtt_s, self.held_s = bytes_per_s, rtt_s, held_s
        #: Seconds that an acknowledgement may be late, and that one in a hundred is.
        self.jitter_s, self.stall_s = jitter_s, stall_s
        self._chance = random.Random(0)
        self._last = 0.0
        self.now = 0.0
        self._free_at = 0.0
        self._under_way: deque[tuple[Sent, int]] = deque()

    @property
    def on_the_way(self) -> int:
        return sum(length for _, length in self._under_way)

    def send(self, length: int) -> None:
        begins = max(self.now, self._free_at)
        self._free_at = begins + length / self.bytes_per_s
        arrives = self._free_at + self.rtt_s / 2
        late_s = self._chance.uniform(0.0, self.jitter_s) + (self.stall_s if self._chance.random() < 0.01 else 0.0)
        self._last = max(self._last, arrives + self.held_s + self.rtt_s / 2 + late_s)
        sent = Sent(self.now, self._last, self.on_the_way + length, begins - self.now)
        self._under_way.append((sent, length))

    def next_acknowledgement(self) -> tuple[Sent, int]:
        sent, length = self._under_way.popleft()
        self.now = max(self.now, sent.acknowledged)
        return sent, length


def flood(window: CongestionWindow, link: Link, *, acknowledgements: int) -> tuple[float, list[float]]:
    """Send as much as the window allows; return the bytes per second and the seconds that each piece waited."""
    began, total, queues = link.now, 0, []
    for _ in range(acknowledgements):
        while window.admits(link.on_the_way):
            link.send(window.chunk_bytes)
        sent, length = link.next_acknowledgement()
        window.record_ack(sent_at=sent.at, now=link.now, held_s=link.held_s, on_the_way=sent.on_the_way)
        assert SMALLEST_WINDOW_BYTES <= window.size <= LARGEST_WINDOW_BYTES
        assert 0 < window.chunk_bytes <= window.size
        assert window.admits(0)
        total += length
        queues.append(sent.queue_s)
    # A way that has become shorter: what was sent later arrives with what was sent before.
    return total / max(link.now - began, 1e-9), queues


RATES = st.floats(100e3, 100e6)
TIMES = st.floats(0.001, 0.6)
HELD = st.sampled_from([0.0, 0.003, 0.2])


def carries(link: Link) -> float:
    """Return what the link can be asked for, bytes a second: a window's worth per round at most."""
    return min(link.bytes_per_s, LARGEST_WINDOW_BYTES / (link.rtt_s + link.held_s))


@given(bytes_per_s=RATES, rtt_s=TIMES, held_s=HELD)
def test_any_link_is_used_and_has_a_short_queue(bytes_per_s: float, rtt_s: float, held_s: float) -> None:
    window, link = CongestionWindow(), Link(bytes_per_s=bytes_per_s, rtt_s=rtt_s, held_s=held_s)
    flood(window, link, acknowledgements=1500)
    speed, queues = flood(window, link, acknowledgements=1500)
    assert speed >= 0.7 * carries(link)
    # What the smallest window is in itself cannot be avoided.
    assert median(queues) <= QUEUE_TARGET_S + SMALLEST_WINDOW_BYTES / bytes_per_s


@given(
    bytes_per_s=st.floats(50e3, 1e6),
    rtt_s=st.floats(0.001, 0.4),
    jitter_s=st.floats(0.0, 0.03),
    stall_s=st.sampled_from([0.0, 0.5]),
)
def test_neither_scatter_nor_stalls_are_taken_for_a_queue(
    bytes_per_s: float, rtt_s: float, jitter_s: float, stall_s: float
) -> None:
    window = CongestionWindow()
    link = Link(bytes_per_s=bytes_per_s, rtt_s=rtt_s, jitter_s=jitter_s, stall_s=stall_s)
    flood(window, link, acknowledgements=1000)
    speed, queues = flood(window, link, acknowledgements=1500)
    assert speed >= 0.7 * carries(link)
    assert median(queues) <= 2 * QUEUE_TARGET_S + SMALLEST_WINDOW_BYTES / bytes_per_s


@given(before=RATES, after=RATES, rtt_before=TIMES, rtt_after=TIMES)
def test_a_link_that_changes_is_found_out_again(
    before: float, after: float, rtt_before: float, rtt_after: float
) -> None:
    window, link = CongestionWindow(), Link(bytes_per_s=before, rtt_s=rtt_before)
    flood(window, link, acknowledgements=300)
    link.bytes_per_s, link.rtt_s = after, rtt_after
    until = link.now + 3 * EMPTY_FOR_S
    while link.now < until:
        flood(window, link, acknowledgements=20)
    speed, queues = flood(window, link, acknowledgements=1500)
    assert speed >= 0.7 * carries(link)
    assert median(queues) <= 2 * QUEUE_TARGET_S + SMALLEST_WINDOW_BYTES / after


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.floats(0, 100), st.floats(0, 200), st.integers(1, 4 * LARGEST_WINDOW_BYTES)),
        max_size=200,
    )
)
def test_whatever_is_measured_a_piece_may_be_sent_when_nothing_is_on_the_way(
    measured: list[tuple[float, float, float, int]],
) -> None:
    window, now = CongestionWindow(), 0.0
    for pause_s, took_s, held_s, on_the_way in measured:
        now += pause_s
        window.record_ack(sent_at=now - took_s, now=now, held_s=held_s, on_the_way=on_the_way)
        assert window.admits(0)
        assert SMALLEST_WINDOW_BYTES <= window.size <= LARGEST_WINDOW_BYTES
