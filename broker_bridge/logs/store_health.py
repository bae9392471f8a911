"""What cannot be stored at the moment, and why. A reason is logged once, and again only after it was over."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import Final

from cachetools import TTLCache

log = logging.getLogger(__name__)

#: Seconds after which a failure that does not come again is forgotten: its job may be. Workers try every 5 s.
FORGET_AFTER_S: Final = 30.0


class StoreHealth:
    """The reasons, by what cannot be stored.

    :param clock: monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._reasons: TTLCache[str, str] = TTLCache(math.inf, FORGET_AFTER_S, timer=clock)

    def record_failure(self, what: str, reason: str) -> None:
        """Take note that something could not be stored."""
        is_known = _kind(reason) in {_kind(known) for known in self._reasons.values()}
        self._reasons[what] = reason
        if not is_known:
            log.error(
                "task logs cannot be stored (%s): free space or fix the folder; workers keep the logs meanwhile",
                reason,
                extra={"action": "log_store_failed"},
            )

    def record_success(self, what: str) -> None:
        """Take note that it could."""
        self._reasons.pop(what, None)

    @property
    def problem(self) -> str | None:
        """Why something cannot be stored; None when everything can, as far as is known."""
        return next(iter(self._reasons.values()), None)


def _kind(reason: str) -> str:
    """Return the reason without the file's name, which follows a colon in the texts of the operating system."""
    return reason.partition(":")[0]
