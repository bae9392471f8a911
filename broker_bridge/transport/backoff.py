"""How long to wait before the next attempt: backoff with full jitter. Pure: time and randomness are passed in.

The ceiling is the time that has passed without a sound connection, not two to the number of attempts: it doubles
just as well, and a short outage is never followed by a long wait because a few attempts happened to fail early.
"""

from __future__ import annotations

import random
from collections.abc import Callable

#: Seconds that the first wait takes at most. Spreads the return of two thousand workers after a blip, and lets each
#: of them be back after one second on average.
FIRST_WAIT_S = 2.0
#: Seconds that any wait takes at most: a site that comes back is not kept out for longer than this.
LONGEST_WAIT_S = 60.0
#: Seconds of service after which a connection counts as sound, and the next wait is a first one again. Shorter ones
#: do not: two programs that keep throwing each other out would do so in a tight loop.
SOUND_AFTER_S = 5.0


class Backoff:
    """Full jitter, so that a thousand workers do not come back at the same moment.

    :param uniform: returns a random number between its two arguments.
    """

    def __init__(self, *, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._uniform = uniform
        self._away_since: float | None = None

    def next_wait(self, now: float, *, served_s: float = 0.0) -> float:
        """Return how many seconds to wait after an attempt that has just ended.

        :param now: monotonic seconds.
        :param served_s: seconds for which its connection could be used; what connecting took is not among them.
        """
        if self._away_since is None or served_s >= SOUND_AFTER_S:
            self._away_since = now
        away_s = now - self._away_since
        return self._uniform(0.0, min(LONGEST_WAIT_S, max(FIRST_WAIT_S, away_s)))
