"""Finds the subscribers of a topic without asking every subscription. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

from edge_mqtt.broker_bridge.protocol.topics import ANY

S = TypeVar("S", bound=Hashable)

#: Multi-level wildcard of a topic filter [MQTT-4.7.1-2].
REST = "#"


class _Node(Generic[S]):
    __slots__ = ("children", "subscribers")

    def __init__(self) -> None:
        self.children: dict[str, _Node[S]] = {}
        self.subscribers: dict[S, int] = {}


class TopicIndex(Generic[S]):
    """Topic filters by subscriber: exact topics in a dict, filters with wildcards in a trie.

    The cost of a look-up grows with the topic's levels and the number of subscribers found, not with the number
    of subscriptions.
    """

    def __init__(self) -> None:
        self._exact: dict[str, dict[S, int]] = {}
        self._wild: _Node[S] = _Node()
        self._filters: dict[S, set[str]] = {}

    def add(self, topic_filter: str, subscriber: S, qos: int) -> None:
        """Subscribe, or replace the QoS of the same subscription [MQTT-3.8.4-3].

        :param qos: highest QoS for what is delivered by this filter.
        """
        self._filters.setdefault(subscriber, set()).add(topic_filter)
        if not _has_wildcards(topic_filter):
            self._exact.setdefault(topic_filter, {})[subscriber] = qos
            return
        node = self._wild
        for level in topic_filter.split("/"):
            node = node.children.setdefault(level, _Node())
        node.subscribers[subscriber] = qos

    def remove(self, topic_filter: str, subscriber: S) -> None:
        """Unsubscribe; nothing happens when there is no such subscription."""
        filters = self._filters.get(subscriber)
        if filters is None or topic_filter not in filters:
            return
        filters.discard(topic_filter)
        if not filters:
            del self._filters[subscriber]
        if _has_wildcards(topic_filter):
            _prune(self._wild, topic_filter.split("/"), subscriber)
            return
        subscribers = self._exact[topic_filter]
        del subscribers[subscriber]
        if not subscribers:
            del self._exact[topic_filter]

    def discard(self, subscriber: S) -> None:
        """Remove every subscription of ``subscriber``."""
        for topic_filter in list(self._filters.get(subscriber, ())):
            self.remove(topic_filter, subscriber)

    def match(self, topic: str) -> dict[S, int]:
        """Return the subscribers of ``topic``, each once and with the highest QoS of what matches [MQTT-3.3.5-1]."""
        found = dict(self._exact.get(topic, ()))
        levels = topic.split("/")
        nodes = [self._wild]
        for depth, level in enumerate(levels):
            # A topic that begins with $ is not for filters that begin with a wildcard [MQTT-4.7.2-1].
            wild = depth > 0 or not level.startswith("$")
            following: list[_Node[S]] = []
            for node in nodes:
                if wild:
                    _merge(found, node.children.get(REST))
                    if (any_child := node.children.get(ANY)) is not None:
                        following.append(any_child)
                if level not in (ANY, REST) and (child := node.children.get(level)) is not None:
                    following.append(child)
            nodes = following
        for node in nodes:
            _merge(found, node)
            _merge(found, node.children.get(REST))  # "a/#" matches "a" too [MQTT-4.7.1-2]
        return found

    def __len__(self) -> int:
        return sum(len(filters) for filters in self._filters.values())


def is_valid_filter(topic_filter: str) -> bool:
    """Tell whether the wildcards of a topic filter stand where they may [MQTT-4.7.1-2, MQTT-4.7.1-3]."""
    levels = topic_filter.split("/")
    return all(level in (ANY, REST) or not _has_wildcards(level) for level in levels) and REST not in levels[:-1]


def _has_wildcards(topic_filter: str) -> bool:
    return ANY in topic_filter or REST in topic_filter


def _merge(found: dict[S, int], node: _Node[S] | None) -> None:
    if node is not None:
        for subscriber, qos in node.subscribers.items():
            found[subscriber] = max(qos, found.get(subscriber, 0))


def _prune(node: _Node[S], levels: list[str], subscriber: S) -> None:
    if not levels:
        del node.subscribers[subscriber]
        return
    child = node.children[levels[0]]
    _prune(child, levels[1:], subscriber)
    if not child.subscribers and not child.children:
        del node.children[levels[0]]
