"""What a benchmark makes of its raw figures: numbers with units, and targets with verdicts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: The raw figures of one of those that are compared.
Raw = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One row of a table."""

    title: str
    #: Turns raw figures into a number; raises when there are none.
    read: Callable[[Raw], float]
    #: The unit, in which the number is shown multiplied by ``scale``.
    unit: str
    scale: float = 1.0
    digits: int = 0

    def of(self, raw: Raw) -> float | None:
        """Return the number; None when it was not measured."""
        try:
            return self.read(raw)
        except (IndexError, KeyError, ValueError, statistics.StatisticsError):
            return None

    def show(self, number: float | None) -> str:
        """Return the number with its unit."""
        return "-" if number is None else f"{number * self.scale:,.{self.digits}f} {self.unit}".strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What must be reached."""

    title: str
    #: Returns what was measured, from all raw figures by name; None when it was not.
    measure: Callable[[Mapping[str, Raw]], float | None]
    at_least: float
    aim: float
    unit: str = ""
    #: Digits after the point of the bounds and of what was measured.
    digits: tuple[int, int] = (2, 3)
    #: Whether a larger number is a better one.
    more_is_better: bool = False

    def verdict(self, figures: Mapping[str, Raw]) -> str:
        """Return "aim reached", "reached", "not reached" or "not measured", by the digits that are shown."""
        value = self.measure(figures)
        if value is None:
            return "not measured"
        value = round(value, self.digits[1])
        for word, bound in (("aim reached", self.aim), ("reached", self.at_least)):
            if value >= bound if self.more_is_better else value <= bound:
                return word
        return "not reached"
