"""How long to wait before the next attempt: backoff with full jitter. Pure: time and randomness are passed in.

The ceiling is the time that has passed without a sound connection, not two to the number of attempts: it doubles
just as well, and a short outage is never followed by a long wait because a few attempts happened to fail early.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_mqtt.broker_bridge.transport.timing import Timing


class Backoff:
    """Full jitter, so that a thousand workers do not come back at the same moment.

    :param uniform: returns a random number between its two arguments.
    """

    def __init__(self, timing: Timing, *, uniform: Callable[[float, float], float]) -> None:
        self._timing = timing
        self._uniform = uniform
        self._away_since: float | None = None

    def next_wait(self, now: float, *, served_s: float = 0.0) -> float:
        """Return how many seconds to wait after an attempt that has just ended.

        :param now: monotonic seconds.
        :param served_s: seconds for which its connection could be used; what connecting took is not among them.
        """
        if self._away_since is None or served_s >= self._timing.sound_after_s:
            self._away_since = now
        away_s = now - self._away_since
        return self._uniform(0.0, min(self._timing.longest_wait_s, max(self._timing.first_wait_s, away_s)))
