"""How much log is on the way: decided by what a piece takes there and back, compared with an empty link."""

from __future__ import annotations

from edge_mqtt.broker_bridge.transport.congestion import (
    CHUNKS_PER_WINDOW,
    EMPTY_FOR_S,
    EMPTY_MEASUREMENTS,
    FIRST_WINDOW_BYTES,
    LARGEST_WINDOW_BYTES,
    MEASUREMENTS,
    QUEUE_TARGET_S,
    SMALLEST_CHUNK_BYTES,
    SMALLEST_WINDOW_BYTES,
    CongestionWindow,
)
from edge_mqtt.worker.core.log_cursor import LogCursor

#: Seconds there and back.
EMPTY_S = 0.1
CHUNK_BYTES = 64 * 1024


class Clock:
    """Has a window measured."""

    def __init__(self) -> None:
        self.window = CongestionWindow()
        self.now = 1000.0

    def took(self, link_s: float, *, on_the_way: int | None = None, held_s: float = 0.0) -> None:
        """Send a piece when nothing is awaited, with as much on the way as is allowed, and have it acknowledged."""
        on_the_way = self.window.size if on_the_way is None else on_the_way
        sent_at, self.now = self.now, self.now + link_s + held_s
        self.window.record_ack(sent_at=sent_at, now=self.now, held_s=held_s, on_the_way=on_the_way)

    def decide(self, link_s: float, *, on_the_way: int | None = None, held_s: float = 0.0) -> int:
        """Measure as often as a decision takes; return the window then."""
        for _ in range(MEASUREMENTS):
            self.took(link_s, on_the_way=on_the_way, held_s=held_s)
        return self.window.size


def test_a_full_window_on_a_link_without_a_queue_doubles() -> None:
    clock = Clock()
    assert clock.decide(EMPTY_S) == 2 * FIRST_WINDOW_BYTES
    assert clock.decide(EMPTY_S) == 4 * FIRST_WINDOW_BYTES


def test_window_ends_at_its_limit_and_its_pieces_at_a_share_of_it() -> None:
    clock = Clock()
    for _ in range(20):
        clock.decide(0.001)
    assert clock.window.size == LARGEST_WINDOW_BYTES
    assert CHUNK_BYTES < clock.window.chunk_bytes <= LARGEST_WINDOW_BYTES // CHUNKS_PER_WINDOW


def test_window_that_is_not_full_does_not_grow() -> None:
    clock = Clock()
    assert clock.decide(EMPTY_S, on_the_way=100) == FIRST_WINDOW_BYTES


def test_one_late_piece_is_no_queue() -> None:
    clock = Clock()
    clock.decide(EMPTY_S)
    for link_s in (1.0, EMPTY_S, 2.0, EMPTY_S):
        clock.took(link_s)
    assert clock.window.size >= 2 * FIRST_WINDOW_BYTES


def test_a_queue_makes_the_window_what_the_link_has_carried() -> None:
    clock = Clock()
    clock.decide(EMPTY_S)
    on_the_way = clock.window.size
    # Ten times as long as when it is empty.
    right = on_the_way * (EMPTY_S + QUEUE_TARGET_S) / (10 * EMPTY_S)
    assert clock.decide(10 * EMPTY_S) == int(right)


def test_once_there_was_a_queue_the_window_grows_by_what_the_target_has_left() -> None:
    clock = Clock()
    clock.decide(EMPTY_S)
    size = clock.window.size
    took_s = EMPTY_S + QUEUE_TARGET_S / 2
    grown = clock.decide(took_s)
    assert size < grown <= size * (EMPTY_S + QUEUE_TARGET_S) / took_s + 1


def test_time_that_the_centre_takes_to_store_is_not_the_link_s() -> None:
    clock = Clock()
    clock.decide(EMPTY_S)
    size = clock.window.size
    assert clock.decide(EMPTY_S, held_s=5.0) > size


def test_what_was_sent_before_the_window_was_set_says_nothing_about_it() -> None:
    clock = Clock()
    before = clock.now
    size = clock.decide(EMPTY_S)
    for _ in range(2 * MEASUREMENTS):
        clock.window.record_ack(sent_at=before, now=clock.now + 9.0, held_s=0.0, on_the_way=size)
    assert clock.window.size == size


def test_pieces_that_were_sent_at_once_and_queued_for_each_other_are_no_standing_queue() -> None:
    clock = Clock()
    size = clock.decide(EMPTY_S)
    sent_at = clock.now
    for number in range(1, 2 * MEASUREMENTS):
        clock.window.record_ack(sent_at=sent_at, now=sent_at + EMPTY_S * (1 + number), held_s=0.0, on_the_way=size)
    assert clock.window.size == size


def test_empty_link_is_measured_anew_with_little_on_the_way_and_the_window_is_kept() -> None:
    clock = Clock()
    size = clock.decide(EMPTY_S)
    clock.now += EMPTY_FOR_S
    clock.took(3 * EMPTY_S)
    assert (clock.window.size, clock.window.chunk_bytes) == (SMALLEST_WINDOW_BYTES, SMALLEST_CHUNK_BYTES)
    # Of what was sent before, there is still more on the way.
    clock.took(3 * EMPTY_S, on_the_way=size)
    for _ in range(EMPTY_MEASUREMENTS):
        assert clock.window.size == SMALLEST_WINDOW_BYTES
        clock.took(2 * EMPTY_S, on_the_way=SMALLEST_WINDOW_BYTES)
    assert clock.window.size == size
    # That is how long the way is now: no queue.
    assert clock.decide(2 * EMPTY_S) > size


def test_empty_link_is_measured_anew_when_even_the_smallest_window_seems_to_queue() -> None:
    clock = Clock()
    clock.decide(0.001)
    while clock.window._size > SMALLEST_WINDOW_BYTES:
        clock.decide(EMPTY_S)
    clock.decide(EMPTY_S)
    for _ in range(EMPTY_MEASUREMENTS):
        clock.took(EMPTY_S)
    assert clock.decide(EMPTY_S) > SMALLEST_WINDOW_BYTES


# ---------------------------------------------------------------- what a cursor knows of its pieces


def sent(cursor: LogCursor, length: int, packed: int, *, now: float = 0.0, on_the_way: int = 0) -> None:
    cursor.record_sent(length, lost_at=10.0)
    cursor.record_sent_chunk(length, packed=packed, now=now, on_the_way=on_the_way)


def test_piece_has_as_much_log_as_makes_the_wanted_size_once_packed() -> None:
    cursor = LogCursor()
    assert cursor.next_length(10**6, 10**6, 4096) == 4096
    sent(cursor, 4096, 512)
    assert cursor.next_length(10**6, 10**6, 4096) == 8 * 4096
    assert cursor.next_length(10**6, 10**6, 65536) == CHUNK_BYTES


def test_a_short_line_that_is_mostly_header_makes_the_next_piece_no_smaller() -> None:
    cursor = LogCursor()
    sent(cursor, 6, 120)
    assert cursor.next_length(10**6, 10**6, 4096) > 3500


def test_acknowledgement_tells_of_the_last_piece_that_has_arrived_whole() -> None:
    cursor = LogCursor()
    sent(cursor, 100, 50, now=1.0, on_the_way=7)
    sent(cursor, 100, 60, now=2.0, on_the_way=57)
    sent(cursor, 100, 70, now=3.0, on_the_way=117)
    assert cursor.packed == 180
    piece = cursor.pop_acked(250)
    assert piece is not None
    assert (piece.end, piece.sent_at, piece.on_the_way) == (200, 2.0, 117)
    assert cursor.packed == 70
    assert cursor.pop_acked(250) is None


def test_nobody_can_tell_which_of_two_sendings_is_acknowledged() -> None:
    cursor = LogCursor()
    sent(cursor, 100, 100)
    assert cursor.rewind_if_stalled(10.0)
    assert cursor.packed == 0
    sent(cursor, 100, 100, now=11.0)
    sent(cursor, 100, 100, now=11.0)
    assert cursor.pop_acked(100) is None
    assert cursor.pop_acked(200) is not None
    cursor.resume_at(0)
    sent(cursor, 150, 150, now=12.0)
    assert cursor.pop_acked(150) is None
