"""A link that several faults may want to be bad at once: the worst of them has its way."""

from __future__ import annotations

import threading
from collections import Counter

from tests.chaos.faults import Kind
from tests.support.bad_link import BadLink

#: Seconds that every byte takes over a delayed link, each way.
DELAY_S = 1.5
#: Bytes after which a torn connection is reset: in the middle of a chunk of a log, of a presence, of an assignment.
_TORN_AFTER = 137


class SharedLink:
    """One link. Any thread may call."""

    def __init__(self, link: BadLink) -> None:
        self._link = link
        self._wanted: Counter[Kind] = Counter()
        self._lock = threading.Lock()

    def begin(self, kind: Kind) -> None:
        """Be bad in one more way."""
        with self._lock:
            if kind is Kind.TEAR:
                self._link.reset_after(_TORN_AFTER, up=True)
                return
            self._wanted[kind] += 1
            self._apply()

    def end(self, kind: Kind) -> None:
        """Be bad in one way less."""
        with self._lock:
            self._wanted[kind] -= 1
            self._wanted += Counter()
            if not self._is_cut:
                self._link.restore()
            self._apply()

    @property
    def _is_cut(self) -> bool:
        return bool(self._wanted[Kind.CUT] or self._wanted[Kind.OUTAGE])

    def _apply(self) -> None:
        self._link.delay_s = DELAY_S if self._wanted[Kind.DELAY] else 0.0
        if self._is_cut:
            self._link.cut()
        elif self._wanted[Kind.BLACKHOLE]:
            self._link.blackhole()
        elif self._wanted[Kind.HALF_OPEN]:
            self._link.blackhole(up=False)
