"""amqtt's broker with delivery of our own: every message goes through a topic index straight to its receivers.

What is replaced, as read in amqtt 0.12.1: it matches each message against each subscription in turn; it sends a
client that connects the retained messages of everybody's subscriptions; it starts a task for every packet, and one
for every message and receiver without limit, and gives up on one that is not acknowledged within 5 s; its session
monitor may clean up a client that has just come back. What it does is the life of a session: CONNECT, one session a
client id, the will, the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker, RetainedApplicationMessage
from amqtt.contexts import BrokerConfig
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

from edge_mqtt.broker_bridge.broker.acl import Action, allowed, may_retain
from edge_mqtt.broker_bridge.broker.client_reader import ClientReader
from edge_mqtt.broker_bridge.broker.client_writer import ClientWriter
from edge_mqtt.broker_bridge.broker.packets import Publish
from edge_mqtt.broker_bridge.broker.topic_index import TopicIndex
from edge_mqtt.broker_bridge.protocol.topics import Topics, matches
from edge_mqtt.certs.identity import Identity

log = logging.getLogger(__name__)

#: SUBACK's return code for a refused subscription [MQTT-3.9.3].
SUBSCRIPTION_REFUSED = 0x80
#: The highest QoS that is served.
HIGHEST_QOS = 1


class Subscriber(Protocol):
    """Whoever messages are delivered to."""

    def __hash__(self) -> int:
        """Tell subscribers apart."""

    def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Take one message; never wait."""


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


class _Connected:
    """Stands in for the state machine of a session that is connected and is thrown away at its end."""

    state = "connected"

    def is_connected(self) -> bool:
        return True

    def disconnect(self) -> None:
        """Do nothing."""


_CONNECTED = _Connected()


class IndexedBroker(Broker):  # type: ignore[misc]  # amqtt has no types
    """The embedded broker.

    :param config: amqtt's.
    :param topics: builds the topics whose messages may be retained.
    """

    def __init__(self, config: BrokerConfig, topics: Topics) -> None:
        super().__init__(config)
        self._topics = topics
        self._index: TopicIndex[Subscriber] = TopicIndex()
        #: For every session's queues: nothing goes through them.
        self._nothing: asyncio.Queue[Any] = asyncio.Queue()
        self._outbox: deque[tuple[str, bytes, int]] = deque()
        self._delivering = False
        #: Publishes and subscriptions that were refused.
        self.denied = 0
        #: Set when the broker ends: wills of clients that are thrown out then would be untrue.
        self.silent = False

    # ------------------------------------------------------------ delivery

    def deliver(self, topic: str, payload: bytes, qos: int) -> None:
        """Hand a message to everybody who subscribes to it, before this returns unless it is itself a delivery."""
        self._outbox.append((topic, payload, qos))
        if self._delivering or self.silent:
            return
        self._delivering = True
        try:
            while self._outbox:
                topic, payload, qos = self._outbox.popleft()
                for subscriber, granted in self._index.match(topic).items():
                    subscriber.deliver(topic, payload, qos=min(qos, granted), retain=False)
        finally:
            self._delivering = False

    def retain(self, topic: str, payload: bytes, qos: int) -> None:
        """Keep a message for later subscribers; an empty one removes what is kept [MQTT-3.3.1-10]."""
        if payload:
            self._retained_messages[topic] = RetainedApplicationMessage(None, topic, payload, qos)
        else:
            self._retained_messages.pop(topic, None)

    def subscribe(self, topic_filter: str, subscriber: Subscriber, qos: int) -> None:
        """Deliver to ``subscriber`` from now on, retained messages first."""
        self._index.add(topic_filter, subscriber, qos)

    def send_retained(self, topic_filter: str, subscriber: Subscriber, qos: int) -> None:
        """Deliver the retained messages that match."""
        # Every worker has a retained message, and every worker subscribes: a look at each by each has to be quick.
        common = topic_filter.partition("+")[0].partition("#")[0].rstrip("/")
        topics = [topic for topic in self._retained_messages if topic.startswith(common)]
        for topic in topics:
            message = self._retained_messages.get(topic)
            if message is not None and matches(topic_filter, topic):
                subscriber.deliver(topic, bytes(message.data), qos=min(qos, message.qos or 0), retain=True)

    def forget(self, subscriber: Subscriber) -> None:
        """End every subscription of ``subscriber``."""
        self._index.discard(subscriber)

    # ------------------------------------------------------------ what clients send

    def publish_from(self, identity: Identity, message: Publish) -> None:
        """Deliver a client's message, and retain it, where the access table lets it."""
        if not self._may(identity, Action.PUBLISH, message.topic):
            return
        qos = int(message.packet_id is not None)
        if message.retain and self._may_retain(identity, message.topic):
            self.retain(message.topic, message.payload, qos)
        self.deliver(message.topic, message.payload, qos)

    def subscribe_from(
        self, identity: Identity, writer: ClientWriter, filters: Sequence[tuple[str, int]]
    ) -> list[int]:
        """Subscribe a client; return the granted QoS of each topic filter, or ``SUBSCRIPTION_REFUSED``."""
        return [self._subscribe_from(identity, writer, topic_filter, qos) for topic_filter, qos in filters]

    def _subscribe_from(self, identity: Identity, writer: ClientWriter, topic_filter: str, qos: int) -> int:
        if not is_valid_filter(topic_filter) or not self._may(identity, Action.SUBSCRIBE, topic_filter):
            return SUBSCRIPTION_REFUSED
        granted = min(qos, HIGHEST_QOS)
        self.subscribe(topic_filter, writer, granted)
        return granted

    def unsubscribe_from(self, writer: ClientWriter, topic_filter: str) -> None:
        """End a client's subscription."""
        self._index.remove(topic_filter, writer)

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

    def _may_retain(self, identity: Identity, topic: str) -> bool:
        if may_retain(identity, topic, self._topics):
            return True
        log.warning(
            "%s may not retain messages on %s",
            identity,
            topic,
            extra={"action": "retain_denied", "client": str(identity), "topic": topic},
        )
        return False

    # ------------------------------------------------------------ what amqtt calls

    async def external_connected(self, reader: ReaderAdapter, writer: WriterAdapter, listener_name: str) -> None:
        """Serve one client until its end, and leave nothing of it behind."""
        try:
            await super().external_connected(reader, writer, listener_name)
        finally:
            if isinstance(writer, ClientWriter):
                self.forget(writer)
                _, handler = self._sessions.get(writer.client_id, (None, None))
                if handler is not None and handler.writer is writer:
                    del self._sessions[writer.client_id]

    async def _publish_session_retained_messages(self, session: Session) -> None:
        # The last thing that amqtt does before it waits for a client's packets; sessions are clean and have none.
        handler = self._get_handler(session)
        if handler is not None and isinstance(handler.reader, ClientReader):
            self._lighten(session, handler)
            handler.reader.start()

    def _lighten(self, session: Session, handler: BrokerProtocolHandler) -> None:
        """Take from a session what it does not need from here on: 30 KB of state machine and queues."""
        session.transitions = _CONNECTED
        session.retained_messages = session.delivered_message_queue = self._nothing
        handler._pending_subscriptions = handler._pending_unsubscriptions = self._nothing  # noqa: SLF001  no other way

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        ended = asyncio.ensure_future(handler.wait_disconnect())
        try:
            await asyncio.wait({ended})
            await self._handle_disconnect(client_session, handler, ended)
        finally:
            ended.cancel()

    async def _del_all_subscriptions(self, session: Session) -> None:
        del session  # external_connected does it, for the connection and not for the name

    async def _broadcast_message(
        self, session: Session | None, topic: str | None, data: bytes | bytearray | None, force_qos: int | None = None
    ) -> None:
        del session
        if topic is not None:
            self.deliver(topic, bytes(data or b""), min(force_qos or 0, HIGHEST_QOS))

    async def retain_message(
        self,
        source_session: Session | None,
        topic_name: str | None,
        data: bytes | bytearray | None,
        qos: int | None = None,
    ) -> None:
        """Retain a client's will where the access table lets it."""
        if source_session is None or topic_name is None or source_session.client_id is None:
            return
        identity = Identity.from_client_id(source_session.client_id)
        if self._may_retain(identity, topic_name):
            self.retain(topic_name, bytes(data or b""), min(qos or 0, HIGHEST_QOS))

    async def _session_monitor(self) -> None:
        await asyncio.Event().wait()


class BrokerRouter:
    """The broker's side of :class:`~edge_mqtt.broker_bridge.transport.inprocess.InProcessTransport`.

    Callbacks come from the broker's event loop.
    """

    def __init__(self, broker: IndexedBroker, loop: asyncio.AbstractEventLoop) -> None:
        self._broker = broker
        self._loop = loop

    def subscribe(self, filters: Sequence[str], callback: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Call ``callback`` with everything that matches, retained messages first; return what ends it."""
        subscriber = _InProcessSubscriber(callback)
        self._call(self._subscribe, tuple(filters), subscriber)

        def unsubscribe() -> None:
            subscriber.active = False
            self._call(self._broker.forget, subscriber)

        return unsubscribe

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Deliver one packet; False when the broker is not running."""
        return not self._broker.silent and self._call(self._publish, topic, payload, qos, retain)

    def _subscribe(self, filters: tuple[str, ...], subscriber: _InProcessSubscriber) -> None:
        for topic_filter in filters:
            self._broker.subscribe(topic_filter, subscriber, HIGHEST_QOS)
        for topic_filter in filters:
            self._broker.send_retained(topic_filter, subscriber, HIGHEST_QOS)

    def _publish(self, topic: str, payload: bytes, qos: int, retain: bool) -> None:
        if retain:
            self._broker.retain(topic, payload, qos)
        self._broker.deliver(topic, payload, qos)

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


def is_valid_filter(topic_filter: str) -> bool:
    """Tell whether the wildcards of a topic filter stand where they may [MQTT-4.7.1-2, MQTT-4.7.1-3]."""
    levels = topic_filter.split("/")
    return (
        all(level in ("+", "#") or not ("+" in level or "#" in level) for level in levels) and "#" not in levels[:-1]
    )
