"""Large messages on one link: each arrives whole and in order, none starves, what is urgent waits for a moment."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES, MAX_PARTIAL_MESSAGES, MAX_TURN_BYTES
from edge_mqtt.broker_bridge.transport.congestion import FIRST_WINDOW_BYTES, QUEUE_TARGET_S, SMALLEST_WINDOW_BYTES
from edge_mqtt.broker_bridge.transport.turn_queue import OVERDUE_S, TurnQueue

pytestmark = pytest.mark.timeout(400)

#: Bytes of an urgent message.
URGENT_BYTES = 300
#: Round trips in which the window has found out what a link carries: it doubles every other one, once too often.
LEARNING_ROUNDS = 30
#: Seconds in which urgent messages are sent after that.
WATCHED_S = 10.0


@dataclass
class Large:
    """A message: when it is sent, and how large it is."""

    at: float
    fragments: int


class Line:
    """A link of one rate with a queue before it; a sender that hands it what the turn queue lets it."""

    def __init__(self, *, bytes_per_s: float, rtt_s: float) -> None:
        self.queue = TurnQueue()
        self.now = 0.0
        self._bytes_per_s, self._rtt_s = bytes_per_s, rtt_s
        self._free_at = 0.0
        self._acks: deque[tuple[float, int]] = deque()
        self._ids = iter(range(1, 10_000_000))
        #: What arrived of each message, in order; whose fragments were sent, and how many before each was queued.
        self.arrived: dict[str, list[bytes]] = {}
        self.sent: list[str] = []
        self.sent_before: dict[str, int] = {}
        self.begun: set[str] = set()
        self.left: dict[str, int] = {}

    def carry(self, size: int) -> float:
        """Put bytes behind what waits; return the seconds that they wait for it."""
        begins = max(self.now, self._free_at)
        self._free_at = begins + size / self._bytes_per_s
        return begins - self.now

    def add(self, name: str, fragments: int) -> None:
        """Queue a message."""
        self.left[name], self.sent_before[name] = fragments, len(self.sent)
        self.queue.add(name, [b"%d" % i + bytes(MAX_TURN_BYTES - 50) for i in range(fragments)], name)

    def sent_beside(self, name: str) -> Counter[str]:
        """Return how many fragments of others were sent from a message's queueing to its last fragment."""
        last = len(self.sent) - self.sent[::-1].index(name)
        return Counter(other for other in self.sent[self.sent_before[name] : last] if other != name)

    def take_turns(self, *, urgent_wait: bool = False) -> None:
        """Send what may be sent."""
        while (taken := self.queue.next_fragment(self.now, urgent_wait=urgent_wait)) is not None:
            name, fragment = taken
            self.carry(len(fragment))
            packet_id = next(self._ids)
            self.queue.record_sent(packet_id, len(fragment), self.now)
            self._acks.append((self._free_at + self._rtt_s, packet_id))
            self.arrived.setdefault(name, []).append(fragment)
            self.sent.append(name)
            self.left[name] -= 1
            (self.begun.add if self.left[name] else self.begun.discard)(name)
            assert len(self.begun) <= MAX_PARTIAL_MESSAGES

    def next_event(self, until: float) -> None:
        """Let time pass to the next acknowledgement, or to ``until``."""
        if self._acks and self._acks[0][0] <= until:
            self.now, packet_id = self._acks.popleft()
            self.queue.record_ack(packet_id, self.now)
        else:
            self.now = until


RATES = st.floats(60e3, 20e6)
TIMES = st.floats(0.001, 0.4)
MESSAGES = st.lists(st.builds(Large, at=st.floats(0.0, 5.0), fragments=st.integers(2, 200)), min_size=1, max_size=50)


@settings(deadline=None)
@given(bytes_per_s=RATES, rtt_s=TIMES, messages=MESSAGES)
def test_each_message_arrives_whole_and_in_order_and_none_waits_for_larger_ones(
    bytes_per_s: float, rtt_s: float, messages: list[Large]
) -> None:
    line = Line(bytes_per_s=bytes_per_s, rtt_s=rtt_s)
    coming = deque(sorted(enumerate(messages), key=lambda item: item[1].at))
    while coming or line.queue.is_busy:
        while coming and coming[0][1].at <= line.now:
            number, message = coming.popleft()
            line.add(str(number), message.fragments)
        line.take_turns()
        line.next_event(coming[0][1].at if coming else line.now + 10.0)
    for number, message in enumerate(messages):
        numbers = [int(fragment.rstrip(b"\0")) for fragment in line.arrived[str(number)]]
        assert numbers == list(range(message.fragments))
    if len(messages) <= MAX_PARTIAL_MESSAGES:
        for number, message in enumerate(messages):
            beside = line.sent_beside(str(number))
            assert max(beside.values(), default=0) <= message.fragments + 1


@settings(deadline=None)
@given(bytes_per_s=RATES, rtt_s=TIMES, large=st.integers(1, 6))
def test_what_is_urgent_waits_for_a_moment_beside_large_messages(
    bytes_per_s: float, rtt_s: float, large: int
) -> None:
    line, waits = Line(bytes_per_s=bytes_per_s, rtt_s=rtt_s), []
    learnt_at = 1.0 + LEARNING_ROUNDS * rtt_s
    until = learnt_at + WATCHED_S
    fragments = min(int(2 * until * bytes_per_s / MAX_TURN_BYTES / large), MAX_MESSAGE_BYTES // MAX_TURN_BYTES // 7)
    for number in range(large):
        line.add(str(number), max(2, fragments))
    next_urgent = 0.0
    while line.now < until and line.queue.waiting_bytes:
        line.take_turns()
        line.next_event(next_urgent)
        if line.now >= next_urgent:
            waited = line.carry(URGENT_BYTES)
            next_urgent = line.now + 0.1
            if line.now >= learnt_at:
                waits.append(waited)
            # At the beginning nothing is known of the link, and what is too much is seen a round later.
            assert waited <= 3 * FIRST_WINDOW_BYTES / bytes_per_s + rtt_s + 4 * QUEUE_TARGET_S
    most = 2 * QUEUE_TARGET_S + 2 * SMALLEST_WINDOW_BYTES / bytes_per_s
    # The others meet a window that is measuring the link anew.
    assert sum(waited <= most for waited in waits) >= 0.9 * len(waits)


@settings(deadline=None)
@given(bytes_per_s=st.floats(60e3, 2e6), rtt_s=st.floats(0.01, 0.2))
def test_the_link_is_used(bytes_per_s: float, rtt_s: float) -> None:
    line = Line(bytes_per_s=bytes_per_s, rtt_s=rtt_s)
    learnt_at = LEARNING_ROUNDS * (rtt_s + QUEUE_TARGET_S)
    until = learnt_at + WATCHED_S
    line.add("large", int(2 * until * bytes_per_s / MAX_TURN_BYTES))
    sent_before = None
    while line.now < until:
        line.take_turns()
        line.next_event(line.now + 0.01)
        if sent_before is None and line.now >= learnt_at:
            sent_before = len(line.sent)
    assert sent_before is not None
    assert (len(line.sent) - sent_before) * MAX_TURN_BYTES >= 0.75 * WATCHED_S * bytes_per_s


@given(urgent_s=st.floats(1.0, 100.0))
def test_a_large_message_moves_though_urgent_ones_never_cease(urgent_s: float) -> None:
    line = Line(bytes_per_s=1e6, rtt_s=0.05)
    line.add("large", 1000)
    while line.now < urgent_s:
        line.take_turns(urgent_wait=True)
        line.next_event(line.now + 0.05)
    assert len(line.arrived["large"]) >= int(urgent_s / (OVERDUE_S + 0.1))
