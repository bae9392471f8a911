"""The ledger for coroutines: one thread does all of its work, so there is one writer, and the loop never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger

P = ParamSpec("P")
T = TypeVar("T")


class AsyncLedger:
    """Makes every call of a :class:`Ledger` in one thread, in the order in which they were asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bridge.ledger")

    async def run(self, method: Callable[Concatenate[Ledger, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a method: ``await ledger.run(Ledger.find, selector, 10)``. Raises what the ledger raises.

        A caller that is cancelled does not wait for the end of its call, which is made all the same.
        """
        # By its name: the ledger that is here has a method of its own for it.
        call = partial(getattr(self._ledger, method.__name__), *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def close(self) -> None:
        """Close the ledger and end its thread."""
        await self.run(Ledger.close)
        self._thread.shutdown()
