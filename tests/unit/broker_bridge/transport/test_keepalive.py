"""When a quiet connection is asked for a sign of life, and when it is given up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.transport.keepalive import KeepAlive

KEEP_ALIVE_S = 60.0


def test_nobody_looks_before_a_keep_alive_has_passed() -> None:
    assert KeepAlive(KEEP_ALIVE_S, 1000.0).next_look_at() == 1060.0


def test_who_only_sends_asks_whether_somebody_is_there() -> None:
    vigil = KeepAlive(KEEP_ALIVE_S, 0.0)
    vigil.sent(59.0)
    assert vigil.next_look_at() == 60.0


def test_who_only_hears_says_that_it_is_there() -> None:
    vigil = KeepAlive(KEEP_ALIVE_S, 0.0)
    vigil.heard(59.0)
    assert vigil.next_look_at() == 60.0


def test_traffic_both_ways_needs_no_ping() -> None:
    vigil = KeepAlive(KEEP_ALIVE_S, 0.0)
    vigil.sent(30.0)
    vigil.heard(31.0)
    assert vigil.next_look_at() == 90.0


def test_a_ping_without_an_answer_is_the_end_after_half_a_keep_alive_more() -> None:
    vigil = KeepAlive(KEEP_ALIVE_S, 0.0)
    vigil.looked(60.0)
    vigil.sent(60.1)
    assert vigil.next_look_at() == 90.0
    assert not vigil.is_over(89.9)
    assert vigil.is_over(90.0)


def test_an_answered_ping_is_good_for_another_keep_alive() -> None:
    vigil = KeepAlive(KEEP_ALIVE_S, 0.0)
    vigil.looked(60.0)
    vigil.sent(60.1)
    vigil.heard(60.2)
    assert not vigil.is_over(90.0)
    assert vigil.next_look_at() == 120.1


def test_a_ping_that_cannot_be_sent_yet_is_not_asked_for_again_and_again() -> None:
    vigil = KeepAlive(KEEP_ALIVE_S, 0.0)
    vigil.heard(40.0)
    vigil.looked(60.0)
    assert vigil.next_look_at() == 120.0


@given(st.lists(st.tuples(st.sampled_from(["sent", "heard", "looked"]), st.floats(0.001, 100.0)), max_size=30))
def test_whoever_sleeps_until_the_next_look_wakes_for_a_reason(events: list[tuple[str, float]]) -> None:
    vigil, now = KeepAlive(KEEP_ALIVE_S, 0.0), 0.0
    for what, after_s in events:
        now += after_s
        getattr(vigil, what)(now)
        vigil.looked(now)
        if vigil.is_over(now):
            return
        assert now < vigil.next_look_at() <= now + 1.5 * KEEP_ALIVE_S
