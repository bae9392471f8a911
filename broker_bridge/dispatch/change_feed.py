"""Tells waiting coroutines that something has changed."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Final

#: Changes that are remembered.
REMEMBERED: Final = 1000


class ChangeFeed:
    """A counter that can be awaited: a reader remembers ``version`` and waits for a newer one."""

    def __init__(self) -> None:
        self.version = 0
        #: The version at which jobs have changed last.
        self.jobs_version = 0
        self._grown: deque[tuple[int, tuple[str, ...]]] = deque(maxlen=REMEMBERED)
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self, grown: Iterable[str] | None = None) -> None:
        """Count one change and wake everybody who waits.

        :param grown: the logs that have grown, by path; None: jobs have changed.
        """
        self.version += 1
        if grown is None:
            self.jobs_version = self.version
        self._grown.append((self.version, tuple(grown or ())))
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    def grown_since(self, seen: int) -> frozenset[str] | None:
        """Return the logs that have grown after a version; None when that was too long ago to be known."""
        if seen < self.version - len(self._grown):
            return None
        return frozenset(path for version, paths in self._grown if version > seen for path in paths)

    async def wait(self, seen: int, timeout_s: float | None) -> bool:
        """Wait until the version is newer than ``seen``; False after ``timeout_s`` seconds, never with None."""
        if self.version > seen:
            return True
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            # Not wait_for: in Python 3.11 it forgets to be cancelled when the change comes in the same moment.
            async with asyncio.timeout(timeout_s):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True
