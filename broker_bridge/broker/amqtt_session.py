"""The life of a session by amqtt: CONNECT, one session a client id, the will, the end. The only importer of amqtt.

What of amqtt 0.12.1 is replaced here, and why: it matches each message against each subscription in turn; it sends a
client that connects the retained messages of all subscriptions; it starts a task for every packet, and one
for every message and receiver without limit, and gives up on one that is not acknowledged within 5 s; its session
monitor may clean up a client that has just come back. So messages and subscriptions go to the
:class:`~edge_mqtt.broker_bridge.broker.router.TopicRouter`, and amqtt sees CONNECT and DISCONNECT alone.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import Any, Final

from amqtt.adapters import ReaderAdapter, WriterAdapter
from amqtt.broker import Broker
from amqtt.contexts import BrokerConfig
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.plugins.base import BaseAuthPlugin
from amqtt.session import Session

from edge_mqtt.broker_bridge.broker.client_reader import ClientReader
from edge_mqtt.broker_bridge.broker.client_writer import ClientWriter
from edge_mqtt.broker_bridge.broker.router import HIGHEST_QOS, TopicRouter
from edge_mqtt.broker_bridge.protocol.access import CLIENT_ROLES
from edge_mqtt.certs.identity import Identity, InvalidName

#: amqtt's loggers: debug lines hold payloads, and info lines come with every packet.
_LOUD_LOGGERS: Final = ("amqtt", "transitions")
#: amqtt's name for connections that are accepted elsewhere.
_LISTENER: Final = "default"


class AmqttSessions:
    """The sessions of connected clients. One event loop's; not thread-safe.

    :param router: delivers what clients publish, and their wills.
    """

    def __init__(self, router: TopicRouter) -> None:
        for name in _LOUD_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        plugin = f"{AccessPlugin.__module__}.{AccessPlugin.__qualname__}"
        config = BrokerConfig.from_dict({"listeners": {_LISTENER: {"type": "external"}}, "plugins": {plugin: {}}})
        self._router = router
        self._broker = _SessionBroker(config, router)

    async def start(self) -> None:
        """Be ready for clients."""
        await self._broker.start()

    async def stop(self) -> None:
        """End every session."""
        await self._broker.shutdown()

    async def serve(self, connect: bytes, reader: ClientReader, writer: ClientWriter) -> None:
        """Serve one client until its session ends, and leave nothing of it behind.

        Answers CONNECT, starts ``reader``, waits for DISCONNECT or the end of the connection, and publishes the will
        if that is due. Cancelling it ends the session at once.

        :param connect: the client's CONNECT packet, checked, with no keep alive.
        """
        for_amqtt = _Writer(writer)
        try:
            await self._broker.external_connected(_Reader(connect, reader), for_amqtt, _LISTENER)
        finally:
            self._router.remove_subscriber(writer)
            self._broker.remove_session(writer.client_id, for_amqtt)


class _Reader(ReaderAdapter):  # type: ignore[misc]  # amqtt has no types
    """What amqtt reads of a client: CONNECT, and in the end DISCONNECT or the end of the connection."""

    def __init__(self, connect: bytes, client: ClientReader) -> None:
        self._data = connect
        self._client = client
        self._more = asyncio.Event()
        self._ended = False

    async def read(self, n: int = -1) -> bytes:
        """Return ``n`` bytes; fewer, or none, when the connection has ended."""
        while len(self._data) < n and not self._ended:
            self._more.clear()
            await self._more.wait()
        end = len(self._data) if n < 0 else n
        data, self._data = self._data[:end], self._data[end:]
        return data

    def feed_eof(self) -> None:
        """Part of the interface; the end is the connection's."""

    def start(self) -> None:
        """Let the client's packets be worked off: its session is set up."""
        self._client.start(self)

    def say_goodbye(self, packet: bytes) -> None:
        """Hand over the client's DISCONNECT."""
        self._data += packet
        self._more.set()

    def end(self) -> None:
        """Tell that the connection has ended without a DISCONNECT."""
        self._ended = True
        self._more.set()


class _Writer(WriterAdapter):  # type: ignore[misc]  # amqtt has no types
    """Where amqtt writes to a client: CONNACK."""

    def __init__(self, client: ClientWriter) -> None:
        self._client = client

    def write(self, data: bytes) -> None:
        """Queue bytes."""
        self._client.write(data)

    async def drain(self) -> None:
        """Return at once: amqtt would wait while it holds a lock of the session."""

    def get_peer_info(self) -> tuple[str, int]:
        """Return what amqtt's log lines are to call the client: an address says less."""
        return self._client.client_id, 0

    def get_ssl_info(self) -> ssl.SSLObject | None:
        """Return nothing: amqtt would keep it, and has no use for it."""
        return None

    async def close(self) -> None:
        """Send what waits and take nothing more. The listener ends the connection itself."""
        await self._client.finish()


class AccessPlugin(BaseAuthPlugin):  # type: ignore[misc]  # amqtt has no types
    """Lets in all that have a role of clients. Without such a plugin amqtt turns all away."""

    async def authenticate(self, *, session: Session) -> bool:
        """Tell whether the client id is one of ours; the listener has compared it with the certificate."""
        try:
            identity = Identity.from_client_id(session.client_id or "")
        except InvalidName:
            return False
        return identity.role in CLIENT_ROLES


class _Connected:
    """Stands in for the state machine of a session that is connected and is thrown away at its end."""

    state = "connected"

    def is_connected(self) -> bool:
        return True

    def disconnect(self) -> None:
        """Do nothing."""


_CONNECTED: Final = _Connected()


class _SessionBroker(Broker):  # type: ignore[misc]  # amqtt has no types
    """amqtt's broker, with everything taken out but the life of a session."""

    def __init__(self, config: BrokerConfig, router: TopicRouter) -> None:
        super().__init__(config)
        self._router = router
        #: For every session's queues: nothing goes through them.
        self._nothing: asyncio.Queue[Any] = asyncio.Queue()

    def remove_session(self, client_id: str, writer: WriterAdapter) -> None:
        """Let go of a session, unless a later connection has its name by now."""
        _, handler = self._sessions.get(client_id, (None, None))
        if handler is not None and handler.writer is writer:
            del self._sessions[client_id]

    async def _publish_session_retained_messages(self, session: Session) -> None:
        # The last thing that amqtt does before it waits for a client's packets; sessions are clean and have none.
        handler = self._get_handler(session)
        if handler is not None and isinstance(handler.reader, _Reader):
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
        del session  # AmqttSessions.serve does it, for the connection and not for the name

    async def _broadcast_message(
        self, session: Session | None, topic: str | None, data: bytes | bytearray | None, force_qos: int | None = None
    ) -> None:
        """Deliver a client's will, the only message that amqtt has."""
        del session
        if topic is not None:
            self._router.deliver(topic, bytes(data or b""), min(force_qos or 0, HIGHEST_QOS))

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
        self._router.retain_from(identity, topic_name, bytes(data or b""), min(qos or 0, HIGHEST_QOS))

    async def _session_monitor(self) -> None:
        await asyncio.Event().wait()
