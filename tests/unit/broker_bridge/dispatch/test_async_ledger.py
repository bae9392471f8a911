"""A ledger is called from the event loop in one thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger, LedgerFull
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger


class Watched(MemoryLedger):
    """Keeps who calls it, and has a full disk."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: set[threading.Thread] = set()

    def max_sequence(self) -> int:
        self.threads.add(threading.current_thread())
        return super().max_sequence()

    def commit(self, changes: Sequence[Job]) -> None:
        raise LedgerFull("the disk is full")


def test_every_call_is_made_in_one_thread_by_the_ledger_that_is_there() -> None:
    async def test() -> None:
        watched = Watched()
        ledger = AsyncLedger(watched)
        assert await asyncio.gather(*(ledger.run(Ledger.max_sequence) for _ in range(5))) == [0] * 5
        (thread,) = watched.threads
        assert thread is not threading.current_thread()
        await ledger.close()
        assert not thread.is_alive()

    asyncio.run(test())


def test_what_the_ledger_raises_is_raised_to_who_asked() -> None:
    async def test() -> None:
        ledger = AsyncLedger(Watched())
        with pytest.raises(LedgerFull):
            await ledger.run(Ledger.commit, [])
        await ledger.close()

    asyncio.run(test())
