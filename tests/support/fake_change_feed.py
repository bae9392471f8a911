"""A change feed that tells when somebody waits for the next one."""

from __future__ import annotations

import asyncio

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed


class WaitedChangeFeed(ChangeFeed):
    """Tells so."""

    def __init__(self) -> None:
        super().__init__()
        self.waited = asyncio.Event()
        #: Seconds for which who came last waits at most; None: for ever.
        self.timeout_s: float | None = 0.0

    async def wait(self, seen: int, timeout_s: float | None) -> bool:
        """Wait as everybody does."""
        self.timeout_s = timeout_s
        self.waited.set()
        return await super().wait(seen, timeout_s)
