"""When a quiet connection is asked for a sign of life, and when it is given up. Pure."""

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
        self._heard_at = self._sent_at = self._asked_at = now

    def record_received(self, now: float) -> None:
        """Take note that something came."""
        self._heard_at = now

    def record_sent(self, now: float) -> None:
        """Take note that something was sent."""
        self._sent_at = now

    def silence_s(self, now: float) -> float:
        """Return the seconds in which nothing has come or gone."""
        return now - max(self._heard_at, self._sent_at)

    def record_ping_if_due(self, now: float) -> None:
        """Take note that a ping was sent, if one was due."""
        if now >= self._ping_at():
            self._asked_at = now

    def is_lost(self, now: float) -> bool:
        """Tell whether the connection is to be given up."""
        return now >= self._give_up_at()

    def next_check_at(self) -> float:
        """Return when the next ping is due, or the connection is to be given up."""
        return min(self._ping_at(), self._give_up_at())

    def _ping_at(self) -> float:
        return max(self._asked_at, min(self._heard_at, self._sent_at)) + self._keep_alive_s

    def _give_up_at(self) -> float:
        return self._heard_at + self._keep_alive_s * (1 + ANSWER_WITHIN)
