"""Tells waiting coroutines that something has changed."""

from __future__ import annotations

import asyncio


class Changes:
    """A counter that can be awaited: a reader remembers ``version`` and waits for a newer one."""

    def __init__(self) -> None:
        self.version = 0
        self._waiters: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Count one change and wake everybody who waits."""
        self.version += 1
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait(self, seen: int, timeout_s: float) -> bool:
        """Wait until the version is newer than ``seen``; False after ``timeout_s`` seconds."""
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
