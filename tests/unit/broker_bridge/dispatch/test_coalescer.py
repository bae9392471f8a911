"""Questions that are asked at the same time travel together."""

from __future__ import annotations

import asyncio

import pytest

from edge_mqtt.broker_bridge.dispatch.coalescer import Coalescer


def test_what_is_asked_in_one_round_is_asked_once_and_everybody_gets_his_own_answer() -> None:
    asked: list[list[str]] = []

    async def lengths(words: list[str]) -> dict[str, int | Exception]:
        asked.append(words)
        await asyncio.sleep(0)
        return {word: len(word) for word in words}

    async def test() -> None:
        together = Coalescer(lengths)
        assert await asyncio.gather(*(together.get(word) for word in ("a", "bb", "a"))) == [1, 2, 1]
        assert await together.get("ccc") == 3

    asyncio.run(test())
    assert asked == [["a", "bb"], ["ccc"]]


def test_a_question_that_comes_while_others_are_answered_is_answered_by_the_next_call() -> None:
    async def test() -> None:
        asked, begun, go_on = list[list[str]](), asyncio.Event(), asyncio.Event()

        async def lengths(words: list[str]) -> dict[str, int | Exception]:
            asked.append(words)
            begun.set()
            await go_on.wait()
            return {word: len(word) for word in words}

        together = Coalescer(lengths)
        first = asyncio.create_task(together.get("a"))
        await begun.wait()
        second = asyncio.create_task(together.get("a"))
        await asyncio.sleep(0)
        go_on.set()
        assert [await first, await second] == [1, 1]
        assert asked == [["a"], ["a"]]

    asyncio.run(test())


def test_one_that_fails_harms_no_other_and_a_call_that_fails_is_told_to_all() -> None:
    async def answers(words: list[str]) -> dict[str, int | Exception]:
        if "all" in words:
            raise OSError("none can be answered")
        return {word: ValueError(word) if word == "bad" else 1 for word in words}

    async def test() -> None:
        together = Coalescer(answers)
        good, bad = await asyncio.gather(together.get("good"), together.get("bad"), return_exceptions=True)
        assert good == 1
        assert isinstance(bad, ValueError)
        both = await asyncio.gather(together.get("all"), together.get("good"), return_exceptions=True)
        assert [str(error) for error in both] == ["none can be answered"] * 2

    asyncio.run(test())


def test_who_does_not_wait_any_more_leaves_the_others_their_answer() -> None:
    async def test() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def answers(words: list[str]) -> dict[str, int | Exception]:
            begun.set()
            await go_on.wait()
            return dict.fromkeys(words, 1)

        together = Coalescer(answers)
        leaving, staying = (asyncio.create_task(together.get("a")) for _ in range(2))
        await begun.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        go_on.set()
        assert await staying == 1

    asyncio.run(test())
