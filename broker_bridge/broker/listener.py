"""The WSS listener: whether a client may connect is settled here, before its session begins.

amqtt would delete the session of a client id before it asks for the newcomer's identity. So the CONNECT packet is
read and checked against the certificate first, and only then passed on.
"""

from __future__ import annotations

import asyncio
import http
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final, cast

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidUpgrade
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from edge_mqtt.broker_bridge.broker.amqtt_session import AmqttSessions
from edge_mqtt.broker_bridge.broker.client_reader import ClientReader
from edge_mqtt.broker_bridge.broker.client_writer import ClientWriter
from edge_mqtt.broker_bridge.broker.connect_packet import (
    MAX_CONNECT_BYTES,
    PROTOCOL_LEVEL,
    ConnackCode,
    ConnectPacket,
    parse_connect,
    without_keep_alive,
)
from edge_mqtt.broker_bridge.broker.handshakes import Handshakes, peer_name
from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.broker_bridge.broker.packets import MAX_PACKET_BYTES, PacketError, PacketSplitter, build_connack
from edge_mqtt.broker_bridge.broker.router import TopicRouter
from edge_mqtt.broker_bridge.broker.tls_connection import TlsConnection
from edge_mqtt.broker_bridge.protocol.access import CLIENT_ROLES, Action, allowed
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.errors import CertificateError
from edge_mqtt.certs.identity import Identity
from edge_mqtt.certs.tls import peer_identity

log = logging.getLogger(__name__)

#: The one path that is served.
PATH: Final = "/mqtt"
#: Connections that wait to be accepted: after an outage of the bridge all clients come at once, and those that the
#: system turns away try again a second later at the earliest. It has a limit of its own (net.core.somaxconn).
BACKLOG: Final = 4096
#: Bytes of one WebSocket message at most; it may hold several packets.
MAX_WEBSOCKET_MESSAGE_BYTES: Final = 2 * MAX_PACKET_BYTES


class _Refusal(Exception):
    """A connection is turned down; ``code`` is the CONNACK to send, None when the peer speaks no MQTT."""

    def __init__(self, reason: str, code: ConnackCode | None) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(eq=False, slots=True)
class _Live:
    incarnation: str
    websocket: ServerConnection
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class WssListener:
    """Accepts clients over WebSockets and TLS, checks their identity, and lets them have their session.

    :param contexts: gives each connection a TLS context that requires a client certificate.
    """

    def __init__(
        self,
        sessions: AmqttSessions,
        router: TopicRouter,
        *,
        contexts: Callable[[], ssl.SSLContext],
        topics: Topics,
        timing: Timing,
        limits: Limits,
    ) -> None:
        self._sessions = sessions
        self._router = router
        self._topics = topics
        self._timing = timing
        self._limits = limits
        self._live: dict[str, _Live] = {}
        self._server: Server | None = None
        self._handshakes = Handshakes(contexts, self._log_refusal, timing=timing, limits=limits)
        #: Connections that were turned down since the start.
        self.refused = 0

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._live)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        if self._server is None:
            raise RuntimeError("the listener is not started")
        port: int = next(iter(self._server.sockets)).getsockname()[1]
        return port

    async def start(self, host: str, port: int) -> None:
        """Listen.

        :param port: 0 takes a free one.
        :raises OSError: the address is taken or may not be used.
        """
        logger = logging.getLogger(f"{__name__}.websockets")
        logger.setLevel(logging.WARNING)
        logger.filters[:] = [_OneLine()]
        self._server = await serve(
            self._serve,
            host,
            port,
            subprotocols=[Subprotocol("mqtt")],
            compression=None,
            process_request=_route,
            server_header=None,
            open_timeout=self._timing.open_s,
            # paho answers WebSocket pings without the mask that the standard asks for.
            ping_interval=None,
            close_timeout=self._timing.close_s,
            backlog=BACKLOG,
            max_size=MAX_WEBSOCKET_MESSAGE_BYTES,
            logger=logger,
            create_connection=cast(
                "type[ServerConnection]",
                partial(
                    TlsConnection,
                    handshakes=self._handshakes,
                    max_unread_bytes=self._limits.unread_bytes,
                ),
            ),
        )

    async def stop(self) -> None:
        """Stop listening and end every connection."""
        if self._server is not None:
            self._server.close()
            await self._handshakes.close()
            await self._server.wait_closed()

    def _log_refusal(self, peer: str, reason: str) -> None:
        self.refused += 1
        log.warning("%s refused: %s", peer, reason, extra={"action": "connection_refused", "peer": peer})

    async def _serve(self, websocket: ServerConnection) -> None:
        if not isinstance(websocket, TlsConnection):
            raise TypeError("the server makes TlsConnections")
        peer = peer_name(websocket.transport)
        splitter = PacketSplitter(MAX_CONNECT_BYTES)
        try:
            packet = await _read_connect(websocket, splitter, self._timing.connect_s)
            connect = _parse(packet)
            identity = self._identify(websocket, connect)
            live = await self._claim_name(websocket, connect)
        except ConnectionClosed:
            return
        except _Refusal as refusal:
            self._log_refusal(peer, str(refusal))
            if refusal.code is not None:
                await _send_connack(websocket, refusal.code)
            return
        splitter.limit = MAX_PACKET_BYTES
        log.info(
            "%s connected from %s", identity, peer, extra={"action": "client_connected", "client": str(identity)}
        )
        writer = ClientWriter(websocket, connect.client_id, timing=self._timing, limits=self._limits)
        reader = ClientReader(
            websocket,
            splitter,
            self._router,
            identity=identity,
            keep_alive_s=connect.keep_alive_s,
            writer=writer,
        )
        try:
            # The keep alive is the reader's to enforce: amqtt's timer may cut a packet's header in two.
            session = self._sessions.serve(without_keep_alive(packet, connect), reader, writer)
            await run_session(session, websocket.connection_lost_waiter, self._timing.session_end_s)
        finally:
            writer.stop()
            if self._live.get(connect.client_id) is live:
                del self._live[connect.client_id]
            live.ended.set()
            log.info("%s disconnected", identity, extra={"action": "client_disconnected", "client": str(identity)})

    def _identify(self, websocket: ServerConnection, connect: ConnectPacket) -> Identity:
        tls = websocket.transport.get_extra_info("ssl_object")
        try:
            identity = peer_identity(tls.getpeercert() or {})
        except CertificateError as error:
            raise _Refusal(f"its certificate is not one of ours: {error}", ConnackCode.NOT_AUTHORIZED) from error
        if connect.client_id != identity.client_id:
            raise _Refusal(
                f"{identity}'s certificate came with client id {connect.client_id!r}", ConnackCode.NOT_AUTHORIZED
            )
        if identity.role not in CLIENT_ROLES:
            raise _Refusal(
                f"{identity} may not connect: a {identity.role} is not a client", ConnackCode.NOT_AUTHORIZED
            )
        if not connect.clean_session:
            raise _Refusal(
                f"{identity} asks for a persistent session, which is not offered", ConnackCode.NOT_AUTHORIZED
            )
        will = connect.will_topic
        if will is not None and not allowed(identity, Action.PUBLISH, will, self._topics):
            raise _Refusal(f"{identity} may not have a will on {will}", ConnackCode.NOT_AUTHORIZED)
        return identity

    async def _claim_name(self, websocket: ServerConnection, connect: ConnectPacket) -> _Live:
        """Take the client id: from an older connection of the same program, never from another one."""
        name = connect.client_id
        while (old := self._live.get(name)) is not None:
            if not connect.username or old.incarnation != connect.username:
                where = peer_name(old.websocket.transport)
                raise _Refusal(
                    f"{name} is in use by another program, connected from {where}", ConnackCode.NAME_IN_USE
                )
            log.info("%s reconnects; its old connection is closed", name, extra={"action": "client_take_over"})
            old.websocket.transport.abort()
            try:
                # Its will must be out before the newcomer speaks.
                async with asyncio.timeout(self._timing.session_end_s):
                    await old.ended.wait()
            except TimeoutError:
                raise _Refusal(f"the old connection of {name} does not end", ConnackCode.UNAVAILABLE) from None
        live = self._live[name] = _Live(connect.username, websocket)
        return live


async def run_session(session: Awaitable[None], lost: asyncio.Future[None], grace_s: float) -> None:
    """Wait for the end of a session; cancel one that goes on ``grace_s`` seconds after its connection is ``lost``."""
    loop, has_ended = asyncio.get_running_loop(), False
    try:
        async with asyncio.timeout(None) as limit:

            def start_clock(_: object) -> None:
                # Both may end in one round of the loop: then this is called though it is no longer wanted.
                if not has_ended:
                    limit.reschedule(loop.time() + grace_s)

            lost.add_done_callback(start_clock)
            try:
                await session
            finally:
                has_ended = True
                lost.remove_done_callback(start_clock)
    except TimeoutError:
        if not limit.expired():
            raise
        log.exception("a session outlives its connection and is cancelled", extra={"action": "session_stuck"})


def _route(connection: ServerConnection, request: Request) -> Response | None:
    if request.path.partition("?")[0] != PATH:
        return connection.respond(http.HTTPStatus.NOT_FOUND, "There is nothing here.\n")
    return None


async def _read_connect(connection: TlsConnection, splitter: PacketSplitter, timeout_s: float) -> bytes:
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                data = await connection.first_data()
                if data is None:
                    raise _Refusal("a text message; MQTT is binary", None)
                for packet in splitter.feed(data):
                    return packet
    except TimeoutError:
        raise _Refusal(f"it sent no CONNECT within {timeout_s:g} s", None) from None
    except PacketError as error:
        raise _Refusal(str(error), None) from error


def _parse(packet: bytes) -> ConnectPacket:
    try:
        connect = parse_connect(packet)
    except PacketError as error:
        raise _Refusal(str(error), None) from error
    if connect.protocol_level != PROTOCOL_LEVEL:
        raise _Refusal(
            f"it speaks MQTT level {connect.protocol_level}; 3.1.1, level 4, is served", ConnackCode.WRONG_VERSION
        )
    return connect


async def _send_connack(websocket: ServerConnection, code: ConnackCode) -> None:
    try:
        await websocket.send(build_connack(code))
    except ConnectionClosed:
        return


class _OneLine(logging.Filter):
    """Makes one line of what websockets logs with a traceback, and nothing of mere visitors."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; False drops it."""
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, InvalidUpgrade | ConnectionError) or isinstance(
            getattr(error, "__cause__", None), EOFError
        ):
            return False
        peer = getattr(getattr(record, "websocket", None), "peer", "a client")
        record.msg, record.args = "%s: %s: %s", (peer, record.getMessage(), error)
        record.exc_info = record.exc_text = None
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        return True
