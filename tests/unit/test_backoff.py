from __future__ import annotations

from edge_mqtt.broker_bridge.transport.backoff import SOUND_AFTER_S, Backoff


def ceilings(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_wait() for _ in range(count)]


def highest(_low: float, high: float) -> float:
    return high


def test_the_ceiling_doubles_from_one_second_to_sixty() -> None:
    assert ceilings(Backoff(uniform=highest), 9) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_the_jitter_is_full() -> None:
    asked: list[tuple[float, float]] = []

    def lowest(low: float, high: float) -> float:
        asked.append((low, high))
        return low

    assert ceilings(Backoff(uniform=lowest), 3) == [0, 0, 0]
    assert asked == [(0, 1), (0, 2), (0, 4)]


def test_only_a_connection_that_lasted_starts_anew() -> None:
    backoff = Backoff(uniform=highest)
    ceilings(backoff, 3)
    backoff.connection_ended(SOUND_AFTER_S - 0.1)
    assert backoff.next_wait() == 8
    backoff.connection_ended(SOUND_AFTER_S)
    assert ceilings(backoff, 2) == [1, 2]


def test_waits_by_default_are_random_and_within_bounds() -> None:
    backoff = Backoff()
    waits = ceilings(backoff, 50)
    assert all(0 <= wait <= 60 for wait in waits)
    assert len(set(waits)) > 40
