"""What cannot be stored at the moment, and why. A reason is told once, and again only after it was over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

#: Seconds after which a trouble that nobody meets any more is forgotten: its job may be. Workers try every 5 s.
FORGET_AFTER_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class _Trouble:
    reason: str
    met_at: float


class StoreHealth:
    """By what cannot be stored.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}

    def failed(self, what: str, reason: str) -> None:
        """Take note that something could not be stored."""
        known = {_kind(trouble.reason) for trouble in self._recent().values()}
        self._troubles[what] = _Trouble(reason, self._clock())
        if _kind(reason) not in known:
            log.error(
                "task logs cannot be stored (%s): free space or mend the folder; workers keep the logs meanwhile",
                reason,
                extra={"action": "log_store_failed"},
            )

    def over(self, what: str) -> None:
        """Take note that it could."""
        self._troubles.pop(what, None)

    def current(self) -> str | None:
        """Return why something cannot be stored; None when nothing is known to be in the way."""
        return next((trouble.reason for trouble in self._recent().values()), None)

    def _recent(self) -> dict[str, _Trouble]:
        since = self._clock() - FORGET_AFTER_S
        self._troubles = {what: trouble for what, trouble in self._troubles.items() if trouble.met_at >= since}
        return self._troubles


def _kind(reason: str) -> str:
    """Return the reason without the file's name, which follows a colon in the texts of the operating system."""
    return reason.partition(":")[0]
