"""When a quiet connection is looked after: what it is asked, and when it is given up. Pure."""

from __future__ import annotations

from typing import Final

#: A silent connection that was asked for a sign of life is given up after this part of the keep alive.
ANSWER_WITHIN: Final = 0.5


class KeepAlive:
    """One connection's signs of life. All times are monotonic seconds.

    A ping is due one keep alive after we were last heard of [MQTT-3.1.2-23], or after we last heard anything.

    :param keep_alive_s: seconds of quiet before a ping; half as many more without an answer are the end.
    """

    def __init__(self, keep_alive_s: float, now: float) -> None:
        self._keep_alive_s = keep_alive_s
        self._heard = self._sent = self._asked = now

    def heard(self, now: float) -> None:
        """Take note that something came."""
        self._heard = now

    def sent(self, now: float) -> None:
        """Take note that something was sent."""
        self._sent = now

    def looked(self, now: float) -> None:
        """Take note that a ping was sent, if one was due."""
        if now >= self._ask_at():
            self._asked = now

    def is_over(self, now: float) -> bool:
        """Tell whether the connection is to be given up."""
        return now >= self._over_at()

    def next_look_at(self) -> float:
        """Return when the next ping is due or patience ends."""
        return min(self._ask_at(), self._over_at())

    def _ask_at(self) -> float:
        return max(self._asked, min(self._heard, self._sent)) + self._keep_alive_s

    def _over_at(self) -> float:
        return self._heard + self._keep_alive_s * (1 + ANSWER_WITHIN)
