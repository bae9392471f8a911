"""The topic index against the plain rule of MQTT, and its own housekeeping."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.broker.router import TopicRouter
from edge_mqtt.broker_bridge.broker.topic_index import TopicIndex, is_valid_filter
from edge_mqtt.broker_bridge.protocol.topics import Topics

LEVELS = st.sampled_from(["a", "b", "", "$c"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join)
FILTERS = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(st.sampled_from(["a", "b", "", "+", "$c"]), min_size=0, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)
SUBSCRIPTIONS = st.lists(st.tuples(FILTERS, st.integers(0, 5), st.integers(0, 1)), max_size=12)


def by_the_book(topic_filter: str, topic: str) -> bool:
    """[MQTT-4.7]: level by level, as the standard has it."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    wanted, given_levels = topic_filter.split("/"), topic.split("/")
    while wanted:
        level = wanted.pop(0)
        if level == "#":
            return True
        if not given_levels or level not in ("+", given_levels.pop(0)):
            return False
    return not given_levels


@settings(deadline=None)
@given(SUBSCRIPTIONS, TOPICS)
def test_the_index_finds_whom_the_standard_names_with_the_highest_qos(
    subscriptions: list[tuple[str, int, int]], topic: str
) -> None:
    index: TopicIndex[int] = TopicIndex()
    granted: dict[tuple[str, int], int] = {}
    for topic_filter, subscriber, qos in subscriptions:
        index.add(topic_filter, subscriber, qos)
        granted[topic_filter, subscriber] = qos
    expected: dict[int, int] = {}
    for (topic_filter, subscriber), qos in granted.items():
        if by_the_book(topic_filter, topic):
            expected[subscriber] = max(qos, expected.get(subscriber, 0))
    assert index.match(topic) == expected
    assert len(index) == len(granted)


@settings(deadline=None)
@given(SUBSCRIPTIONS, st.data())
def test_what_is_removed_leaves_nothing_behind(
    subscriptions: list[tuple[str, int, int]], data: st.DataObject
) -> None:
    index: TopicIndex[int] = TopicIndex()
    for topic_filter, subscriber, qos in subscriptions:
        index.add(topic_filter, subscriber, qos)
    for topic_filter, subscriber, _ in subscriptions:
        if data.draw(st.booleans()):
            index.remove(topic_filter, subscriber)
            index.remove(topic_filter, subscriber)
        else:
            index.discard(subscriber)
    assert len(index) == 0
    empty: TopicIndex[int] = TopicIndex()
    assert (index._exact, index._filters) == (empty._exact, empty._filters)
    assert index._wild.children == {}
    assert index._wild.subscribers == {}


def test_removing_one_subscriber_leaves_the_others() -> None:
    index: TopicIndex[str] = TopicIndex()
    for subscriber in ("ann", "bob"):
        index.add("a/+", subscriber, 1)
        index.add("a/b", subscriber, 0)
    index.discard("ann")
    assert index.match("a/b") == {"bob": 1}


def router_with(retained: dict[str, int]) -> TopicRouter:
    router = TopicRouter(Topics())
    for topic, qos in retained.items():
        router.retain(topic, topic.encode() + b"!", qos)
    return router


class Collector:
    def __init__(self) -> None:
        self.got: list[tuple[str, bytes, int, bool]] = []

    def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        self.got.append((topic, payload, qos, retain))

    def deliver_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> None:
        self.got.extend((topic, fragment, 1, False) for fragment in fragments)


@settings(deadline=None)
@given(
    st.dictionaries(TOPICS, st.integers(0, 1), max_size=8),
    FILTERS,
    st.integers(0, 1),
)
@example({"a": 1, "ab": 1, "a/b": 0, "b": 1}, "a/#", 1)
@example({"": 1, "/": 1, "a": 1, "a/": 1}, "+/+", 1)
@example({"a": 1, "a/": 1, "a//b": 1}, "a/", 1)
@example({"$c": 1, "a": 1}, "#", 1)
def test_a_newcomer_gets_the_retained_messages_that_the_standard_names_each_once(
    retained: dict[str, int], topic_filter: str, granted: int
) -> None:
    newcomer = Collector()
    router_with(retained).send_retained(topic_filter, newcomer, granted)
    assert newcomer.got == [
        (topic, topic.encode() + b"!", min(qos, granted), True)
        for topic, qos in retained.items()
        if by_the_book(topic_filter, topic)
    ]


def test_what_a_newcomer_does_about_a_retained_message_does_not_disturb_the_rest() -> None:
    router = router_with({"a/1": 1, "a/2": 1, "a/3": 1})

    class Remover(Collector):
        def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
            super().deliver(topic, payload, qos=qos, retain=retain)
            router.retain("a/2", b"", 1)

    remover = Remover()
    router.send_retained("a/+", remover, 1)
    assert [topic for topic, *_ in remover.got] == ["a/1", "a/3"]


@pytest.mark.parametrize("topic_filter", ["a", "+", "#", "a/+/b", "a/#", "/", "+/+", "/#"])
def test_valid_filters_pass(topic_filter: str) -> None:
    assert is_valid_filter(topic_filter)


@pytest.mark.parametrize("topic_filter", ["a+", "a/b#", "#/a", "a/#/b", "+a/b", "##"])
def test_misplaced_wildcards_do_not(topic_filter: str) -> None:
    assert not is_valid_filter(topic_filter)
