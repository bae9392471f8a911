"""Statistics that the benchmarks share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie, between two of them by their distance."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Return how much the second value grows with the first: the line through points with least squares.

    With round trip times in seconds and durations in seconds, these are round trips.

    :raises ValueError: fewer than two different first values.
    """
    if len({x for x, _ in points}) < 2:
        raise ValueError("a slope needs two different places")
    return float(statistics.linear_regression(*zip(*points, strict=True)).slope)
