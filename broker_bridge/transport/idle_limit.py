"""Finds out that something on the way ends connections that are idle for a while. Pure: times are passed in."""

from __future__ import annotations

from typing import Final

#: Seconds by which two idle times may differ and still be one limit: timers of proxies look now and then.
SAME_WITHIN_S: Final = 1.0
#: The part of an idle limit after which a sign of life is sent.
SHARE: Final = 0.7


class IdleLimit:
    """One program's keep alive: the one that is set, until connections show that it is too long.

    :param keep_alive_s: whole seconds, as set.
    :param shortest_s: seconds of silence below which an end has other reasons.
    """

    def __init__(self, keep_alive_s: int, *, shortest_s: float) -> None:
        #: Seconds of quiet after which a connection is to give a sign of life.
        self.keep_alive_s = keep_alive_s
        self._shortest_s = shortest_s
        self._last_s: float | None = None

    def learn_from_end(self, silence_s: float | None) -> bool:
        """Take note of how a connection ended; tell whether a shorter keep alive was learned from that.

        :param silence_s: seconds in which nothing had come or gone when it was ended on the way, without a word from
            the broker; None when it ended otherwise.
        """
        before_s, self._last_s = self._last_s, silence_s
        if silence_s is None or before_s is None or silence_s < self._shortest_s:
            return False
        learned_s = max(1, int(min(before_s, silence_s) * SHARE))
        if abs(silence_s - before_s) > SAME_WITHIN_S or learned_s >= self.keep_alive_s:
            return False
        self.keep_alive_s = learned_s
        return True
