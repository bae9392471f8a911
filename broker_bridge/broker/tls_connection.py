"""A WebSocket connection without tasks of its own, which does its own TLS handshake.

asyncio's server keeps failed handshakes to itself. And websockets' way to read and write, a queue with a task at each
side and a lock for every message, costs more than all else that becomes of a message here.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from asyncio import sslproto
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final, Protocol

from websockets.asyncio.server import Server, ServerConnection
from websockets.exceptions import InvalidUpgrade
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event
from websockets.server import ServerProtocol

from edge_mqtt.certs.tls import clock_note

log = logging.getLogger(__name__)

#: Seconds for the TLS handshake.
TLS_TIMEOUT_S: Final = 10.0
#: TLS handshakes at once. Whoever opens connections and says nothing holds no more of our memory and descriptors than
#: these take, and whoever is quicker gets through.
MAX_HANDSHAKES: Final = 2000
#: Seconds between two lines in the log about that.
CROWD_LOG_INTERVAL_S: Final = 60.0
#: Seconds to wait for the peer's farewell on the TLS layer.
TLS_SHUTDOWN_S: Final = 2.0

#: Bytes that asyncio reads at once from a TLS connection, 256 KiB unless told otherwise. A TLS record has no more.
TLS_READ_BYTES: Final = 16 * 1024
#: Bytes that may have arrived before somebody takes them.
MAX_EARLY_BYTES: Final = 64 * 1024

#: Bytes that may wait in the TLS layer. Messages wait elsewhere: these are answers to pings that the client ignores.
MAX_UNREAD_BYTES: Final = 4 * 1024 * 1024

#: Told of a connection that ends before it is one: peer address, reason.
Refused = Callable[[str, str], None]

#: The TCP connection on which a handshake takes place.
_HANDSHAKING: ContextVar[asyncio.Transport] = ContextVar("handshaking")


class _AlertingObject(ssl.SSLObject):
    """Sends the alert of a failed handshake, which asyncio throws away: the client would never learn the reason."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    connection: asyncio.Transport

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002  the interface's name
        """Return what has been received.

        :raises ssl.SSLError: there is nothing, or it is not what the peer may send.
        """
        # asyncio reads until there is nothing more. To have OpenSSL find that out lets another thread take the
        # interpreter's lock each time.
        if not (self.incoming.pending or self.incoming.eof or self.pending()):
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "nothing is received")
        return super().read(len, buffer)

    def do_handshake(self) -> None:
        """Go on with the handshake.

        :raises ssl.SSLError: it failed, or waits for the peer.
        """
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self.connection.write(self.outgoing.read())
            raise


class _AlertingContext(ssl.SSLContext):
    sslobject_class = _AlertingObject

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        made = super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)
        if isinstance(made, _AlertingObject):
            made.incoming, made.outgoing = incoming, outgoing
            made.connection = _HANDSHAKING.get()
        return made


def make_alerting(context: ssl.SSLContext) -> None:
    """Let failed handshakes with ``context`` tell the client why; for :class:`TlsConnection` only."""
    context.__class__ = _AlertingContext


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Return the peer's address and port for a log line."""
    peer = transport.get_extra_info("peername")
    return f"{peer[0]}:{peer[1]}" if peer else "an unknown address"


class Handshakes:
    """The TLS handshakes that go on: no more than ``MAX_HANDSHAKES``, and none outlives the listener."""

    def __init__(self) -> None:
        #: In the order in which they began.
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._logged_at = -CROWD_LOG_INTERVAL_S
        self.closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, task: asyncio.Task[None]) -> None:
        """Hold a handshake's task while it lasts; give the oldest up when there are too many."""
        if len(self._tasks) >= MAX_HANDSHAKES:
            oldest = next(iter(self._tasks))
            self._forget(oldest)
            oldest.cancel()
            self._log_crowd(task.get_loop().time())
        self._tasks[task] = None
        task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task, None)

    def _log_crowd(self, now: float) -> None:
        if now - self._logged_at >= CROWD_LOG_INTERVAL_S:
            self._logged_at = now
            log.warning(
                "more than %d connections are in their TLS handshake: the oldest are given up. "
                "If these are no workers, let a firewall keep them away",
                MAX_HANDSHAKES,
                extra={"action": "handshakes_crowded"},
            )

    async def close(self) -> None:
        """End them all and let none begin."""
        self.closed = True
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Receiver(Protocol):
    """Whom a connection tells, at once and from its own callbacks."""

    def take(self, data: bytes) -> None:
        """Take bytes; where one WebSocket message ends and the next begins means nothing [MQTT-6.0.0-2]."""

    def take_text(self) -> None:
        """Take note that a text message has begun."""

    def writable(self) -> None:
        """Go on sending: the connection takes more again."""

    def lost(self) -> None:
        """Take note of the end."""


class TlsConnection(ServerConnection):
    """Made on a plain TCP connection; is told of its transport when TLS is up.

    :param context: requires the client's certificate.
    :param refused: told when the handshake fails.
    :param handshakes: those of the listener.
    :param read_buffer: ``TLS_READ_BYTES``, for all connections of one event loop. asyncio has one a connection, but
        takes out what was read before anything else happens in its loop.
    """

    def __init__(
        self,
        protocol: ServerProtocol,
        server: Server,
        *,
        context: ssl.SSLContext,
        refused: Refused,
        handshakes: Handshakes,
        read_buffer: bytearray,
        **options: Any,
    ) -> None:
        super().__init__(protocol, server, **options)
        self._context = context
        self._refused = refused
        self._secured = False
        self._lost = False
        self._handshakes = handshakes
        self._read_buffer = read_buffer
        self._tcp: asyncio.Transport | None = None
        #: Address and port for log lines, also when the connection is gone.
        self.peer = "an unknown address"
        #: What the TLS layer delivered before the task that opens it went on.
        self._early: list[bytes] = []
        #: What the client sent before there was a receiver; None for a text message.
        self._untaken: list[bytes | None] = []
        self._untaken_bytes = 0
        self._arrived = asyncio.Event()
        self._receiver: Receiver | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the TLS handshake."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's own promise to a stream protocol
        self.peer = peer_name(transport)
        self._tcp = transport
        if self._handshakes.closed:
            transport.abort()
            return
        task = self.loop.create_task(self._open(transport), name="broker.tls_handshake")
        # One that is cancelled before its first step never gets to closing anything.
        task.add_done_callback(lambda done: transport.abort() if done.cancelled() else None)
        self._handshakes.add(task)

    def data_received(self, data: bytes) -> None:
        """Pass on, once TLS is up."""
        if self._secured:
            super().data_received(data)
        else:
            self._early.append(data)

    def eof_received(self) -> None:
        """Pass on, once TLS is up."""
        if self._secured:
            super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on, once TLS is up."""
        self._lost = True
        if not self._secured:
            return
        super().connection_lost(exc)
        self._arrived.set()
        if self._receiver is not None:
            self._receiver.lost()

    def resume_writing(self) -> None:
        """Pass on, and tell the receiver."""
        super().resume_writing()
        if self._receiver is not None:
            self._receiver.writable()

    # ------------------------------------------------------------ messages

    def process_event(self, event: Event) -> None:
        """Take what a data frame has in it; leave everything else to websockets."""
        if not isinstance(event, Frame) or event.opcode not in (Opcode.BINARY, Opcode.TEXT, Opcode.CONT):
            super().process_event(event)
            self._check_unread()
            return
        data = None if event.opcode is Opcode.TEXT else bytes(event.data)
        if self._receiver is not None:
            _hand_over(data, self._receiver)
            return
        self._untaken.append(data)
        self._untaken_bytes += len(data or b"")
        if self._untaken_bytes > MAX_EARLY_BYTES:
            self.pause_reading()
        self._arrived.set()

    def _check_unread(self) -> None:
        if not self.transport.is_closing() and self.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            log.warning(
                "%s dropped: it sends and sends and does not read the answers",
                self.peer,
                extra={"action": "client_dropped", "peer": self.peer},
            )
            self.transport.abort()

    def pause_reading(self) -> None:
        """Let the client wait."""
        # On the TLS layer it would go on being read, up to 256 KiB, and all of that would come at once afterwards.
        if self._tcp is not None:
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._tcp is not None:
            self._tcp.resume_reading()

    async def first_data(self) -> bytes | None:
        """Return bytes that have arrived before there was a receiver; None for a text message.

        :raises ConnectionClosed: the connection has ended.
        """
        while not self._untaken:
            if self._lost:
                raise self.protocol.close_exc
            self._arrived.clear()
            await self._arrived.wait()
        return self._untaken.pop(0)

    def receive_with(self, receiver: Receiver) -> None:
        """Tell ``receiver`` of everything from now on, and of what nobody has taken."""
        self._receiver = receiver
        # Nobody asks for these again.
        for http in (self.request, self.response):
            if http is not None:
                http.headers.clear()
        untaken, self._untaken = self._untaken, []
        receiver.take(b"")
        for data in untaken:
            _hand_over(data, receiver)
        if self._lost:
            receiver.lost()
        else:
            self.resume_reading()
            if not self.paused:
                receiver.writable()

    def send_now(self, data: bytes) -> bool:
        """Send one message; False when the connection has ended. Never waits: ``paused`` tells when to stop."""
        if self._lost or self.protocol.state is not OPEN:
            return False
        self.protocol.send_binary(data)
        self.send_data()
        return True

    # ------------------------------------------------------------ the handshake

    async def _open(self, transport: asyncio.Transport) -> None:
        _HANDSHAKING.set(transport)
        began = self.loop.time()
        try:
            secure = await self.loop.start_tls(
                transport,
                self,
                self._context,
                server_side=True,
                ssl_handshake_timeout=TLS_TIMEOUT_S,
                ssl_shutdown_timeout=TLS_SHUTDOWN_S,
            )
        except OSError as error:
            if isinstance(error, ssl.SSLError):
                self._refused(self.peer, _explain(error))
            elif self.loop.time() - began >= TLS_TIMEOUT_S:
                self._refused(self.peer, f"no TLS handshake within {TLS_TIMEOUT_S:g} s")
            return
        if secure is None or self._lost:
            return
        self._secured = True
        _share_buffer(transport, self._read_buffer)
        super().connection_made(secure)
        for data in self._early:
            super().data_received(data)
        self._early.clear()


def _share_buffer(transport: asyncio.Transport, buffer: bytearray) -> None:
    protocol = transport.get_protocol()
    if isinstance(protocol, sslproto.SSLProtocol):
        protocol._ssl_buffer = buffer  # type: ignore[attr-defined]  # noqa: SLF001  16 KiB a connection
        protocol._ssl_buffer_view = memoryview(buffer)  # type: ignore[attr-defined]  # noqa: SLF001  the same


def _hand_over(data: bytes | None, receiver: Receiver) -> None:
    if data is None:
        receiver.take_text()
    else:
        receiver.take(data)


def _explain(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}{clock_note(error)}"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it has no client certificate"
    return f"the TLS handshake failed: {(error.reason or str(error)).replace('_', ' ').lower()}"


class OneLine(logging.Filter):
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
