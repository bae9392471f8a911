"""Tasks that run beside what has started them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


def log_failure(task: asyncio.Task[None]) -> None:
    """Log the failure of a task that has ended."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("%s failed", task.get_name(), exc_info=error, extra={"action": "answer_failed"})


async def repeat(call: Callable[[], None], *, every_s: float) -> None:
    """Make a call again and again, for ever.

    :param every_s: seconds before each.
    """
    while True:
        await asyncio.sleep(every_s)
        call()


class BackgroundTasks:
    """Keeps tasks until they have ended.

    :param on_end: told of every task that has ended, unless :meth:`stop` ended it.
    """

    def __init__(self, on_end: Callable[[asyncio.Task[None]], None] = log_failure) -> None:
        self._on_end = on_end
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run ``coroutine`` in a task called ``bridge.<name>``."""
        task = asyncio.create_task(coroutine, name=f"bridge.{name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._on_end)
        return task

    async def stop(self) -> None:
        """End every task, and wait until it has ended."""
        for task in self._tasks:
            task.remove_done_callback(self._on_end)
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
