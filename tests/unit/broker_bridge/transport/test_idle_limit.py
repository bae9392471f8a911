"""A keep alive that is longer than what a proxy on the way allows becomes shorter by itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.transport.idle_limit import IdleLimit


def a_limit(keep_alive_s: int = 25) -> IdleLimit:
    return IdleLimit(keep_alive_s, shortest_s=5.0)


def test_two_ends_after_the_same_silence_make_the_keep_alive_shorter() -> None:
    limit = a_limit()
    assert not limit.learn_from_end(20.1)
    assert limit.keep_alive_s == 25
    assert limit.learn_from_end(20.4)
    assert limit.keep_alive_s == 14


def test_what_was_learned_may_prove_too_long_again() -> None:
    limit = a_limit()
    assert [limit.learn_from_end(silence_s) for silence_s in (20.0, 20.0, 10.0, 10.2)] == [False, True, False, True]
    assert limit.keep_alive_s == 7


@pytest.mark.parametrize(
    "ends",
    [
        (20.0, 15.0),
        (20.0, None, 20.0),
        (4.0, 4.0),
        (40.0, 40.0),
        (None, None),
    ],
    ids=[
        "other silences",
        "another end in between",
        "too short for a proxy",
        "not below the present one",
        "no idle ends",
    ],
)
def test_other_ends_change_nothing(ends: tuple[float | None, ...]) -> None:
    limit = a_limit()
    assert not any(limit.learn_from_end(silence_s) for silence_s in ends)
    assert limit.keep_alive_s == 25


@given(st.integers(1, 65535), st.lists(st.one_of(st.none(), st.floats(0.0, 200.0))))
def test_keep_alive_never_grows_and_is_never_below_a_second(set_s: int, ends: list[float | None]) -> None:
    limit = a_limit(set_s)
    for silence_s in ends:
        before = limit.keep_alive_s
        learned = limit.learn_from_end(silence_s)
        assert (limit.keep_alive_s < before) is learned
        assert 1 <= limit.keep_alive_s <= before
