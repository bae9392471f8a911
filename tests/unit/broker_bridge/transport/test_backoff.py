"""When a transport tries again: the rule, and what it means for a whole fleet."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from edge_mqtt.broker_bridge.transport.backoff import Backoff
from edge_mqtt.broker_bridge.transport.timing import Timing

TIMING = Timing()


def highest(_low: float, high: float) -> float:
    return high


def waits(backoff: Backoff, count: int, *, attempt_s: float = 0.0) -> list[float]:
    """Return the waits of attempts that fail one after the other, each taking ``attempt_s`` seconds."""
    now, found = 0.0, []
    for _ in range(count):
        now += attempt_s
        found.append(backoff.next_wait(now))
        now += found[-1]
    return found


def test_the_ceiling_doubles_from_two_seconds_to_sixty() -> None:
    assert waits(Backoff(TIMING, uniform=highest), 8) == [2, 2, 4, 8, 16, 32, 60, 60]


def test_the_jitter_is_full() -> None:
    asked: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    assert waits(Backoff(TIMING, uniform=lowest), 3, attempt_s=10.0) == [0, 0, 0]
    assert asked == [(0, TIMING.first_wait_s), (0, 10), (0, 20)]


def test_attempts_that_fail_at_once_do_not_make_the_next_wait_long() -> None:
    backoff = Backoff(TIMING, uniform=lambda _low, high: high / 100)
    assert max(waits(backoff, 50)) <= TIMING.first_wait_s / 100


def test_only_a_connection_that_served_starts_anew() -> None:
    backoff = Backoff(TIMING, uniform=highest)
    backoff.next_wait(0.0)
    assert backoff.next_wait(20.0, served_s=TIMING.sound_after_s - 0.1) == 20
    assert backoff.next_wait(100.0, served_s=TIMING.sound_after_s) == TIMING.first_wait_s
    assert backoff.next_wait(103.0) == 3


def test_the_first_outage_of_a_sound_connection_begins_with_a_short_wait() -> None:
    assert Backoff(TIMING, uniform=highest).next_wait(1e6, served_s=1e5) == TIMING.first_wait_s


def returns(outage_s: float, *, workers: int = 2000) -> list[float]:
    """Return how many seconds after the end of an outage each worker of a fleet is back.

    :param outage_s: seconds for which every attempt fails at once.
    """
    found = []
    for seed in range(workers):
        backoff = Backoff(TIMING, uniform=random.Random(seed).uniform)
        now = backoff.next_wait(0.0, served_s=3600.0)
        while now < outage_s:
            now += backoff.next_wait(now)
        found.append(now - outage_s)
    return found


@pytest.mark.parametrize("outage_s", [0.0, 1.0, 3.0, 10.0, 30.0, 60.0, 600.0])
def test_no_worker_stays_away_longer_than_the_outage_took(outage_s: float) -> None:
    back = returns(outage_s)
    longest = min(TIMING.longest_wait_s, max(TIMING.first_wait_s, outage_s))
    assert max(back) <= longest
    assert sum(back) / len(back) <= 0.52 * longest


@pytest.mark.parametrize(("outage_s", "most"), [(0.0, 0.53), (10.0, 0.25), (600.0, 0.045)])
def test_a_fleet_comes_back_spread_out(outage_s: float, most: float) -> None:
    per_second = Counter(int(back) for back in returns(outage_s))
    # Evenly spread, a second would have 50 % of the fleet after a blip and 1.7 % after ten minutes.
    assert max(per_second.values()) <= most * 2000
