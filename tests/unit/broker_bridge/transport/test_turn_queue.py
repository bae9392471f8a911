"""Large messages wait for their turn: one fragment at a time, no more on the way than the link carries."""

from __future__ import annotations

from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES, MAX_PARTIAL_MESSAGES
from edge_mqtt.broker_bridge.transport.congestion import FIRST_WINDOW_BYTES
from edge_mqtt.broker_bridge.transport.turn_queue import OVERDUE_S, TurnQueue

FRAGMENT = bytes(1000)


class Sender:
    """Sends what a queue lets it, and has it acknowledged."""

    def __init__(self) -> None:
        self.queue = TurnQueue()
        self.now = 100.0
        self._ids = iter(range(1, 1_000_000))
        self.unacknowledged: list[int] = []

    def add(self, name: str, fragments: int, *, errand: str | None = None, fragment: bytes = FRAGMENT) -> None:
        self.queue.add(name, [fragment] * fragments, errand or name)

    def take(self, *, urgent_wait: bool = False) -> str | None:
        """Send one fragment; return its topic."""
        taken = self.queue.next_fragment(self.now, urgent_wait=urgent_wait)
        if taken is None:
            return None
        packet_id = next(self._ids)
        self.queue.record_sent(packet_id, len(taken[1]), self.now)
        self.unacknowledged.append(packet_id)
        return taken[0]

    def acknowledge(self, after_s: float = 0.01) -> None:
        """Have the oldest fragment on the way acknowledged."""
        self.now += after_s
        self.queue.record_ack(self.unacknowledged.pop(0), self.now)

    def order(self, count: int) -> str:
        """Send so many fragments, each acknowledged before the next; return their topics."""
        topics = []
        for _ in range(count):
            topics.append(self.take() or "-")
            if topics[-1] != "-":
                self.acknowledge()
        return "".join(topics)


def test_messages_take_turns_and_one_that_ends_leaves_its_turn_to_the_others() -> None:
    sender = Sender()
    sender.add("a", 5)
    sender.add("b", 2)
    assert sender.order(3) == "aba"
    sender.add("c", 2)
    assert sender.order(7) == "bacaca-"


def test_no_more_is_on_the_way_than_the_window_lets() -> None:
    sender = Sender()
    sender.add("a", 1000)
    sent = 0
    while sender.take():
        sent += 1
    assert FIRST_WINDOW_BYTES // 2 <= sent * len(FRAGMENT) <= FIRST_WINDOW_BYTES
    while sender.unacknowledged:
        sender.acknowledge()
    assert sender.take() == "a"


def test_what_waits_is_counted_and_the_queue_is_busy_until_all_is_acknowledged() -> None:
    sender = Sender()
    assert (sender.queue.is_busy, sender.queue.waiting_bytes) == (False, 0)
    sender.add("a", 2)
    assert (sender.queue.is_busy, sender.queue.waiting_bytes) == (True, 2 * len(FRAGMENT))
    assert (sender.take(), sender.take()) == ("a", "a")
    assert (sender.queue.is_busy, sender.queue.waiting_bytes) == (True, 0)
    sender.acknowledge()
    assert (sender.queue.is_busy, sender.unacknowledged) == (True, [2])
    sender.acknowledge()
    assert (sender.queue.is_busy, sender.unacknowledged) == (False, [])


def test_what_is_sent_again_before_it_is_sent_whole_is_not_wanted_and_afterwards_it_is() -> None:
    sender = Sender()
    sender.add("a", 3, errand="call 1")
    assert sender.order(1) == "a"
    sender.add("b", 3, errand="call 1")
    assert sender.order(3) == "aa-"
    sender.add("b", 3, errand="call 1")
    assert sender.order(4) == "bbb-"


def test_urgent_messages_go_first_but_not_for_ever() -> None:
    sender = Sender()
    sender.add("a", 10)
    assert sender.order(1) == "a"
    assert sender.take(urgent_wait=True) is None
    sender.now += OVERDUE_S
    assert sender.take(urgent_wait=True) == "a"
    assert sender.take(urgent_wait=True) is None
    assert sender.take() == "a"


def test_no_more_messages_are_begun_than_the_receiver_holds_incomplete() -> None:
    sender = Sender()
    names = [f"{number:02}" for number in range(MAX_PARTIAL_MESSAGES + 5)]
    for name in names:
        sender.add(name, 2)
    first = sender.order(MAX_PARTIAL_MESSAGES)
    assert first == "".join(names[:MAX_PARTIAL_MESSAGES])
    assert sender.order(1) == names[0]
    # One is whole: there is room for one more.
    rest = sender.order(2 * len(names))
    assert rest.count(names[-1]) == 2


def test_no_more_bytes_are_begun_than_the_receiver_holds_incomplete() -> None:
    sender, half = Sender(), bytes(MAX_MESSAGE_BYTES // 4)
    sender.add("a", 2, fragment=half)
    sender.add("b", 3, fragment=half)
    sender.add("c", 1)
    # What cannot be begun yet keeps those behind it waiting, too: it would never be its turn.
    assert sender.order(7) == "aabcbb-"


def test_a_queue_that_is_cleared_sends_nothing_more() -> None:
    sender = Sender()
    sender.add("a", 3)
    sender.add("b", 3)
    assert sender.order(1) == "a"
    sender.queue.clear()
    assert (sender.order(1), sender.queue.waiting_bytes, sender.queue.is_busy) == ("-", 0, False)


def test_an_acknowledgement_of_something_else_changes_nothing() -> None:
    sender = Sender()
    sender.add("a", 1)
    assert sender.take() == "a"
    sender.queue.record_ack(4711, sender.now)
    assert sender.queue.is_busy
