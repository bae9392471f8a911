"""A wrong clock is said to be wrong once, and again when that changes."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.program.clock_notice import ClockNotice, describe_offset


@pytest.mark.parametrize(
    ("offsets", "news"),
    [
        ([0.0, 1.0, -4.9, 5.0], [False, False, False, False]),
        ([120.0, 121.0, 119.0, 124.9], [True, False, False, False]),
        ([-120.0, -126.0, -120.0], [True, True, True]),
        ([6.0, 4.0, 0.5, 6.0], [True, False, True, True]),
        ([120.0, -120.0], [True, True]),
    ],
)
def test_what_is_news(offsets: list[float], news: list[bool]) -> None:
    notice = ClockNotice()
    assert [notice.is_news(offset) for offset in offsets] == news


@pytest.mark.parametrize(("offsets", "wrong"), [([], False), ([-60.0], True), ([-60.0, 0.0], False), ([3.0], False)])
def test_clock_is_wrong_until_it_is_said_to_be_right(offsets: list[float], wrong: bool) -> None:
    notice = ClockNotice()
    for offset in offsets:
        notice.is_news(offset)
    assert notice.is_wrong is wrong


@pytest.mark.parametrize(("offset", "words"), [(119.6, "120 s behind"), (-7.0, "7 s ahead of")])
def test_offset_in_words(offset: float, words: str) -> None:
    assert describe_offset(offset) == f"{words} the bridge's"
