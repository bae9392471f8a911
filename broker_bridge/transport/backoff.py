"""How long to wait before the next attempt: exponential backoff with full jitter. Pure: randomness is passed in."""

from __future__ import annotations

import random
from collections.abc import Callable

#: Seconds that the first wait takes at most.
FIRST_WAIT_S = 1.0
#: Seconds that any wait takes at most: a site that comes back is not kept out for longer than this.
LONGEST_WAIT_S = 60.0
#: Seconds after which a connection counts as sound, and the next wait is a first one again. Shorter ones do not:
#: two programs that keep throwing each other out would do so in a tight loop.
SOUND_AFTER_S = 5.0


class Backoff:
    """Full jitter over a doubling ceiling, so that a thousand workers do not come back at the same moment.

    :param first_s: ceiling of the first wait in seconds.
    :param longest_s: ceiling of every wait in seconds.
    :param uniform: returns a random number between its two arguments.
    """

    def __init__(
        self,
        *,
        first_s: float = FIRST_WAIT_S,
        longest_s: float = LONGEST_WAIT_S,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._uniform = uniform
        self._ceiling_s = first_s

    def next_wait(self) -> float:
        """Return how many seconds to wait now, and double the ceiling of the next wait."""
        wait_s = self._uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(self._longest_s, self._ceiling_s * 2)
        return wait_s

    def connection_ended(self, lasted_s: float) -> None:
        """Begin anew when a connection was up for long enough to count as sound.

        :param lasted_s: seconds that it was up.
        """
        if lasted_s >= SOUND_AFTER_S:
            self._ceiling_s = self._first_s
