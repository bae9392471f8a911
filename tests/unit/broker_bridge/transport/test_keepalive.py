"""When a quiet connection is asked for a sign of life, and when it is given up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.transport.keepalive import KeepAlive

KEEP_ALIVE_S = 60.0


def test_nothing_is_due_before_a_keep_alive_has_passed() -> None:
    assert KeepAlive(KEEP_ALIVE_S, 1000.0).next_check_at() == 1060.0


def test_who_only_sends_asks_whether_somebody_is_there() -> None:
    keep_alive = KeepAlive(KEEP_ALIVE_S, 0.0)
    keep_alive.record_sent(59.0)
    assert keep_alive.next_check_at() == 60.0


def test_who_only_hears_says_that_it_is_there() -> None:
    keep_alive = KeepAlive(KEEP_ALIVE_S, 0.0)
    keep_alive.record_received(59.0)
    assert keep_alive.next_check_at() == 60.0


def test_traffic_both_ways_needs_no_ping() -> None:
    keep_alive = KeepAlive(KEEP_ALIVE_S, 0.0)
    keep_alive.record_sent(30.0)
    keep_alive.record_received(31.0)
    assert keep_alive.next_check_at() == 90.0


def test_a_ping_without_an_answer_is_the_end_after_half_a_keep_alive_more() -> None:
    keep_alive = KeepAlive(KEEP_ALIVE_S, 0.0)
    keep_alive.record_ping_if_due(60.0)
    keep_alive.record_sent(60.1)
    assert keep_alive.next_check_at() == 90.0
    assert not keep_alive.is_lost(89.9)
    assert keep_alive.is_lost(90.0)


def test_an_answered_ping_is_good_for_another_keep_alive() -> None:
    keep_alive = KeepAlive(KEEP_ALIVE_S, 0.0)
    keep_alive.record_ping_if_due(60.0)
    keep_alive.record_sent(60.1)
    keep_alive.record_received(60.2)
    assert not keep_alive.is_lost(90.0)
    assert keep_alive.next_check_at() == 120.1


def test_a_ping_that_cannot_be_sent_yet_is_not_asked_for_again_and_again() -> None:
    keep_alive = KeepAlive(KEEP_ALIVE_S, 0.0)
    keep_alive.record_received(40.0)
    keep_alive.record_ping_if_due(60.0)
    assert keep_alive.next_check_at() == 120.0


WHAT = st.sampled_from(["record_sent", "record_received", "record_ping_if_due"])


@given(st.lists(st.tuples(WHAT, st.floats(0.001, 100.0)), max_size=30))
def test_there_is_a_reason_to_wake_at_the_next_check(events: list[tuple[str, float]]) -> None:
    keep_alive, now = KeepAlive(KEEP_ALIVE_S, 0.0), 0.0
    for what, after_s in events:
        now += after_s
        getattr(keep_alive, what)(now)
        keep_alive.record_ping_if_due(now)
        if keep_alive.is_lost(now):
            return
        assert now < keep_alive.next_check_at() <= now + 1.5 * KEEP_ALIVE_S
