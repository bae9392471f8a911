"""Has what is asked at the same time answered by one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Coalescer(Generic[K, V]):
    """Collects what is asked in one round of the event loop, and asks once.

    :param ask: returns the answer for each of some keys; an exception among them is raised to who asked for that.
    """

    def __init__(self, ask: Callable[[list[K]], Awaitable[Mapping[K, V | Exception]]]) -> None:
        self._ask = ask
        self._waiting: dict[K, list[asyncio.Future[V]]] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> V:
        """Return the answer for one key; raises what the call raises."""
        if not self._waiting:
            task = asyncio.create_task(self._answer(), name="bridge.coalescer")
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        answer: asyncio.Future[V] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(answer)
        return await answer

    async def _answer(self) -> None:
        waiting, self._waiting = self._waiting, {}
        try:
            answers = await self._ask(list(waiting))
        except Exception as error:  # noqa: BLE001  it is raised where it was asked for
            answers = dict.fromkeys(waiting, error)
        for key, futures in waiting.items():
            answer = answers[key]
            for future in futures:
                if future.done():
                    continue
                if isinstance(answer, Exception):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
