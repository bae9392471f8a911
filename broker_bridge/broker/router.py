"""Where messages go: subscriptions, retained messages, and what the access table lets a client do."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edge_mqtt.broker_bridge.broker.packets import Publish
from edge_mqtt.broker_bridge.broker.topic_index import TopicIndex, is_valid_filter
from edge_mqtt.broker_bridge.protocol.access import Action, allowed
from edge_mqtt.broker_bridge.protocol.topics import Topics, matches
from edge_mqtt.certs.identity import Identity

log = logging.getLogger(__name__)

#: SUBACK's return code for a refused subscription [MQTT-3.9.3].
SUBSCRIPTION_REFUSED: Final = 0x80
#: The highest QoS that is served.
HIGHEST_QOS: Final = 1


class Subscriber(Protocol):
    """What messages are delivered to."""

    def __hash__(self) -> int:
        """Tell subscribers apart."""

    def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Take one message; never wait."""

    def deliver_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> None:
        """Take a message in fragments, each to be sent in its turn; never wait."""


@dataclass(frozen=True, slots=True)
class _Retained:
    payload: bytes
    qos: int


class TopicRouter:
    """Takes every message through a topic index straight to its receivers. One event loop's; not thread-safe.

    :param topics: builds the topics whose messages may be retained.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._index: TopicIndex[Subscriber] = TopicIndex()
        self._retained: dict[str, _Retained] = {}
        self._outbox: deque[tuple[str, bytes, int]] = deque()
        self._delivering = False
        self._silent = False
        #: Publishes and subscriptions that were refused.
        self.denied = 0

    @property
    def silent(self) -> bool:
        """Whether nothing is delivered any more."""
        return self._silent

    def silence(self) -> None:
        """Deliver nothing more: the broker ends, and wills of clients that it disconnects then would be untrue."""
        self._silent = True

    # ------------------------------------------------------------ delivery

    def deliver(self, topic: str, payload: bytes, qos: int) -> None:
        """Hand a message to all its subscribers, before this returns unless it is itself a delivery."""
        self._outbox.append((topic, payload, qos))
        if self._delivering or self._silent:
            return
        self._delivering = True
        try:
            while self._outbox:
                topic, payload, qos = self._outbox.popleft()
                for subscriber, granted in self._index.match(topic).items():
                    subscriber.deliver(topic, payload, qos=min(qos, granted), retain=False)
        finally:
            self._delivering = False

    def deliver_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> None:
        """Hand a message in fragments to all its subscribers."""
        if not self._silent:
            for subscriber in self._index.match(topic):
                subscriber.deliver_large(topic, fragments, errand)

    def retain(self, topic: str, payload: bytes, qos: int) -> None:
        """Keep a message for later subscribers; an empty one removes what is kept [MQTT-3.3.1-10]."""
        if payload:
            self._retained[topic] = _Retained(payload, qos)
        else:
            self._retained.pop(topic, None)

    def subscribe(self, topic_filter: str, subscriber: Subscriber, qos: int) -> None:
        """Deliver to ``subscriber`` from now on."""
        self._index.add(topic_filter, subscriber, qos)

    def send_retained(self, topic_filter: str, subscriber: Subscriber, qos: int) -> None:
        """Deliver the retained messages that match."""
        # Every worker has a retained message, and every worker subscribes: a look at each by each has to be quick.
        common = topic_filter.partition("+")[0].partition("#")[0].rstrip("/")
        topics = [topic for topic in self._retained if topic.startswith(common)]
        for topic in topics:
            message = self._retained.get(topic)
            if message is not None and matches(topic_filter, topic):
                subscriber.deliver(topic, message.payload, qos=min(qos, message.qos), retain=True)

    def remove_subscriber(self, subscriber: Subscriber) -> None:
        """End every subscription of ``subscriber``."""
        self._index.discard(subscriber)

    # ------------------------------------------------------------ what clients send

    def publish_from(self, identity: Identity, message: Publish) -> None:
        """Deliver a client's message, and retain it, where the access table lets it."""
        if not self._may(identity, Action.PUBLISH, message.topic):
            return
        qos = int(message.packet_id is not None)
        if message.retain:
            self.retain_from(identity, message.topic, message.payload, qos)
        self.deliver(message.topic, message.payload, qos)

    def retain_from(self, identity: Identity, topic: str, payload: bytes, qos: int) -> None:
        """Retain a client's message or will where the access table lets it."""
        if allowed(identity, Action.RETAIN, topic, self._topics):
            self.retain(topic, payload, qos)
            return
        log.warning(
            "%s may not retain messages on %s",
            identity,
            topic,
            extra={"action": "retain_denied", "client": str(identity), "topic": topic},
        )

    def subscribe_from(
        self, identity: Identity, subscriber: Subscriber, filters: Sequence[tuple[str, int]]
    ) -> list[int]:
        """Subscribe a client; return the granted QoS of each topic filter, or ``SUBSCRIPTION_REFUSED``."""
        return [self._subscribe_from(identity, subscriber, topic_filter, qos) for topic_filter, qos in filters]

    def _subscribe_from(self, identity: Identity, subscriber: Subscriber, topic_filter: str, qos: int) -> int:
        if not is_valid_filter(topic_filter) or not self._may(identity, Action.SUBSCRIBE, topic_filter):
            return SUBSCRIPTION_REFUSED
        granted = min(qos, HIGHEST_QOS)
        self.subscribe(topic_filter, subscriber, granted)
        return granted

    def unsubscribe(self, topic_filter: str, subscriber: Subscriber) -> None:
        """End one subscription."""
        self._index.remove(topic_filter, subscriber)

    def _may(self, identity: Identity, action: Action, topic_or_filter: str) -> bool:
        if allowed(identity, action, topic_or_filter, self._topics):
            return True
        self.denied += 1
        log.warning(
            "%s may not %s %s",
            identity,
            "publish to" if action is Action.PUBLISH else "subscribe to",
            topic_or_filter,
            extra={"action": "access_denied", "client": str(identity), "topic": topic_or_filter},
        )
        return False


class _InProcessSubscriber:
    def __init__(self, callback: Callable[[str, bytes], None]) -> None:
        self._callback = callback
        self.active = True

    def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        del qos, retain
        if not self.active:
            return
        try:
            self._callback(topic, payload)
        except Exception:
            # One receiver's mistake must not keep a message from the others.
            log.exception("a subscriber in this process failed", extra={"action": "subscriber_failed"})

    def deliver_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> None:
        del errand
        for fragment in fragments:
            self.deliver(topic, fragment, qos=HIGHEST_QOS, retain=False)


class InProcessRouter:
    """The broker's side of :class:`~edge_mqtt.broker_bridge.transport.inprocess.InProcessTransport`.

    Thread-safe. Callbacks come from the broker's event loop: at once when the caller is in it.
    """

    def __init__(self, router: TopicRouter, loop: asyncio.AbstractEventLoop) -> None:
        self._router = router
        self._loop = loop

    def subscribe(self, filters: Sequence[str], callback: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Call ``callback`` with everything that matches, retained messages first; return what ends it."""
        subscriber = _InProcessSubscriber(callback)
        self._call(self._subscribe, tuple(filters), subscriber)

        def unsubscribe() -> None:
            subscriber.active = False
            self._call(self._router.remove_subscriber, subscriber)

        return unsubscribe

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Deliver one packet; False when the broker is not running."""
        return not self._router.silent and self._call(self._publish, topic, payload, qos, retain)

    def publish_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> bool:
        """Deliver a message in fragments, to each receiver in its turn; False when the broker is not running."""
        return not self._router.silent and self._call(self._router.deliver_large, topic, fragments, errand)

    def _subscribe(self, filters: tuple[str, ...], subscriber: _InProcessSubscriber) -> None:
        for topic_filter in filters:
            self._router.subscribe(topic_filter, subscriber, HIGHEST_QOS)
        for topic_filter in filters:
            self._router.send_retained(topic_filter, subscriber, HIGHEST_QOS)

    def _publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        if retain:
            self._router.retain(topic, payload, qos)
        self._router.deliver(topic, payload, qos)

    def _call(self, function: Callable[..., None], *args: object) -> bool:
        try:
            inside = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            inside = False
        if inside:
            function(*args)
            return True
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed
            return False
        return True
