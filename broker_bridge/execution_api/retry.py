"""Makes a call again until it succeeds.

By hand, because every call of a task comes through here: ``tenacity`` takes 50 µs for a call that succeeds at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")


async def retry(
    call: Callable[[], Awaitable[T]],
    failure: type[Exception],
    *,
    wait_s: float,
    on_failure: Callable[[Exception], None] | None = None,
) -> T:
    """Return what ``call`` returns once it does not raise ``failure``.

    :param wait_s: seconds between attempts.
    :param on_failure: told of every failure.
    """
    while True:
        try:
            return await call()
        except failure as error:
            if on_failure is not None:
                on_failure(error)
        await asyncio.sleep(wait_s)
