"""A session ends with its connection: by itself, or cancelled after a while."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from edge_mqtt.broker_bridge.broker.listener import run_session

Lost = asyncio.Future[None]


def run(scene: Callable[[Lost], Coroutine[Any, Any, None]]) -> list[str]:
    """Run a scene and some rounds of the loop behind it; return what nobody caught."""
    faults: list[str] = []

    async def play() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: faults.append(repr(context.get("exception"))))
        await scene(loop.create_future())
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(play())
    return faults


def test_a_session_that_ends_in_the_same_round_as_its_connection_leaves_no_error_behind() -> None:
    async def scene(lost: Lost) -> None:
        async def session() -> None:
            lost.set_result(None)

        await run_session(session(), lost, 1000.0)

    assert run(scene) == []


def test_a_connection_that_is_lost_behind_its_session_changes_nothing() -> None:
    async def session() -> None:
        """End at once."""

    async def scene(lost: Lost) -> None:
        await run_session(session(), lost, 0.0)
        lost.set_result(None)

    assert run(scene) == []


def test_a_session_that_goes_on_without_its_connection_is_cancelled_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cancelled = []

    async def session() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append("session")
            raise

    async def scene(lost: Lost) -> None:
        lost.set_result(None)
        await run_session(session(), lost, 0.0)

    assert run(scene) == []
    assert cancelled == ["session"]
    assert "outlives its connection" in caplog.text


@pytest.mark.parametrize("error", [TimeoutError, asyncio.CancelledError, ConnectionResetError])
def test_what_a_session_raises_itself_comes_out(error: type[BaseException]) -> None:
    async def session() -> None:
        raise error

    async def scene(lost: Lost) -> None:
        with pytest.raises(error):
            await run_session(session(), lost, 1000.0)

    assert run(scene) == []
