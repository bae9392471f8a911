"""A WebSocket connection without tasks of its own: what arrives is handed over at once.

websockets' way to read and write, a queue with a task at each side and a lock for every message, costs more than all
else that becomes of a message here.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final, Protocol

from websockets.asyncio.server import Server, ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Event
from websockets.server import ServerProtocol

from edge_mqtt.broker_bridge.broker.handshakes import Handshakes, peer_name

log = logging.getLogger(__name__)

#: Bytes of a message that is sent at most. A client is given a message once it has all of it, and over a slow link it
#: must hear something well within its keep alive.
MAX_FRAME_BYTES: Final = 16 * 1024
#: Bytes that may have arrived before there is a receiver.
MAX_EARLY_BYTES: Final = 64 * 1024


class FrameReceiver(Protocol):
    """What a connection calls, at once and from its own callbacks."""

    def accept_data(self, data: bytes) -> None:
        """Take bytes; where one WebSocket message ends and the next begins means nothing [MQTT-6.0.0-2]."""

    def accept_text(self) -> None:
        """Take note that a text message has begun."""

    def resume_sending(self) -> None:
        """Go on sending: the connection takes more again."""

    def connection_lost(self) -> None:
        """Take note of the end."""


class TlsConnection(ServerConnection):
    """Made on a plain TCP connection; becomes a WebSocket connection when its TLS handshake is done.

    :param handshakes: those of the listener.
    :param max_unread_bytes: bytes that may wait in the TLS layer.
    """

    def __init__(
        self,
        protocol: ServerProtocol,
        server: Server,
        *,
        handshakes: Handshakes,
        max_unread_bytes: int,
        **options: Any,
    ) -> None:
        super().__init__(protocol, server, **options)
        self._handshakes = handshakes
        self._max_unread_bytes = max_unread_bytes
        self._tcp: asyncio.Transport | None = None
        self._lost = False
        #: Address and port for log lines, also when the connection is gone.
        self.peer = "an unknown address"
        #: What the client sent before there was a receiver; None for a text message.
        self._untaken: list[bytes | None] = []
        self._untaken_bytes = 0
        self._arrived = asyncio.Event()
        self._receiver: FrameReceiver | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the TLS handshake; go on, when it is done and this is called again, with the TLS transport."""
        if self._tcp is not None:
            super().connection_made(transport)
            return
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - asyncio's own promise to a stream protocol
        self._tcp = transport
        self.peer = peer_name(transport)
        self._handshakes.begin(transport, self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on, and tell the receiver."""
        self._lost = True
        super().connection_lost(exc)
        self._arrived.set()
        if self._receiver is not None:
            self._receiver.connection_lost()

    def resume_writing(self) -> None:
        """Pass on, and tell the receiver."""
        super().resume_writing()
        if self._receiver is not None:
            self._receiver.resume_sending()

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
        if not self.transport.is_closing() and self.transport.get_write_buffer_size() > self._max_unread_bytes:
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

    def receive_with(self, receiver: FrameReceiver) -> None:
        """Tell ``receiver`` of everything from now on, and of what has come before."""
        self._receiver = receiver
        # They are not needed again.
        for http in (self.request, self.response):
            if http is not None:
                http.headers.clear()
        untaken, self._untaken = self._untaken, []
        receiver.accept_data(b"")
        for data in untaken:
            _hand_over(data, receiver)
        if self._lost:
            receiver.connection_lost()
        else:
            self.resume_reading()
            if not self.paused:
                receiver.resume_sending()

    def send_now(self, data: bytes) -> bool:
        """Send bytes; False when the connection has ended. Never waits: ``paused`` tells when to stop."""
        if self._lost or self.protocol.state is not OPEN:
            return False
        for start in range(0, len(data), MAX_FRAME_BYTES):
            self.protocol.send_binary(data[start : start + MAX_FRAME_BYTES])
        self.transport.write(b"".join(self.protocol.data_to_send()))
        return True


def _hand_over(data: bytes | None, receiver: FrameReceiver) -> None:
    if data is None:
        receiver.accept_text()
    else:
        receiver.accept_data(data)
