"""When it is said that the clock of a worker's machine is wrong, and how."""

from __future__ import annotations

from typing import Final

#: Seconds that a clock may be off before it is said, and that it may change afterwards.
NOTICED_S: Final = 5.0


class ClockNotice:
    """Says of one clock that it is wrong: once, and again when it is wrong by something else, or right again."""

    def __init__(self) -> None:
        self._said_s = 0.0

    def is_news(self, offset_s: float) -> bool:
        """Tell whether this is to be said.

        :param offset_s: seconds that the clock is behind the bridge's, negative for ahead.
        """
        if abs(offset_s - self._said_s) <= NOTICED_S:
            return False
        self._said_s = offset_s if abs(offset_s) > NOTICED_S else 0.0
        return True

    @property
    def is_wrong(self) -> bool:
        """Whether it was said last that the clock is wrong."""
        return self._said_s != 0.0


def describe_offset(offset_s: float) -> str:
    """Return how far a clock is off, in words."""
    return f"{abs(offset_s):.0f} s {'behind' if offset_s > 0 else 'ahead of'} the bridge's"
