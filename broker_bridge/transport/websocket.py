"""A WebSocket client over TLS that looks like a socket to paho; the protocol (RFC 6455) is by websockets.

paho has one, which masks a packet byte by byte in Python (13 ms for 128 KiB), answers pings with frames that the
standard forbids, leaves its socket open when connecting fails and does not say what the server answered.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHeader, InvalidStatus
from websockets.frames import DATA_OPCODES, OP_TEXT, CloseCode, Frame
from websockets.protocol import CONNECTING, OPEN
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI

from edge_mqtt.broker_bridge.transport.endpoint import Endpoint, Proxy

#: Bytes to ask the kernel for at a time.
_READ_BYTES: Final = 64 * 1024
#: Bytes of one message that are taken: several times what a bridge sends in one.
MAX_MESSAGE_BYTES: Final = 1024 * 1024
#: Characters of a server's answer that an error shows.
_SHOWN: Final = 100
_MQTT: Final = Subprotocol("mqtt")

#: At DEBUG websockets logs what is in the frames: tokens, too.
_log = logging.getLogger(f"{__name__}.websockets")
_log.setLevel(logging.WARNING)


class HandshakeFailed(ConnectionError):
    """The server's answer is not that of an MQTT broker behind a WebSocket."""


class _TlsSocket(ssl.SSLSocket):
    """Closes its descriptor also when its making fails, as it does after a reset: Python then leaves it open."""

    def __del__(self) -> None:
        self.close()


def open_websocket(
    endpoint: Endpoint,
    context: ssl.SSLContext,
    *,
    proxy: Proxy | None,
    timeout_s: float,
    opened: Callable[[socket.socket], None],
) -> WebSocket:
    """Connect, through the proxy if there is one, and shake hands.

    :param timeout_s: seconds for each step: reaching the host, TLS, the WebSocket handshake.
    :param opened: is given the socket as soon as there is one, and again when it speaks TLS.
    :raises OSError: of the socket, the proxy, TLS or the WebSocket handshake; nothing is left open.
    """
    plain = _tunnel(endpoint, proxy, timeout_s) if proxy else _reach(endpoint.host, endpoint.port, timeout_s)
    try:
        opened(plain)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context.sslsocket_class = _TlsSocket
        secure = context.wrap_socket(plain, server_hostname=endpoint.host, do_handshake_on_connect=False)
    except BaseException:
        plain.close()
        raise
    try:
        opened(secure)
        secure.do_handshake()
        return WebSocket(secure, _shake_hands(secure, endpoint, time.monotonic() + timeout_s))
    except BaseException:
        secure.close()
        raise


def _reach(host: str, port: int, timeout_s: float) -> socket.socket:
    return socket.create_connection((host, port), timeout=timeout_s)


def _tunnel(endpoint: Endpoint, proxy: Proxy, timeout_s: float) -> socket.socket:
    headers = {"Host": f"{endpoint.host}:{endpoint.port}"}
    if proxy.username is not None:
        login = f"{proxy.username}:{proxy.password or ''}".encode()
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(login).decode()}"
    connection = http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout_s)
    connection.set_tunnel(endpoint.host, endpoint.port, headers)
    try:
        connection.connect()
    except http.client.HTTPException as error:
        connection.close()
        raise HandshakeFailed(f"the proxy {proxy.host}:{proxy.port} does not answer as one ({error!r})") from error
    except OSError as error:
        connection.close()
        raise ConnectionError(f"through the proxy {proxy.host}:{proxy.port}: {error}") from error
    return connection.sock


def _shake_hands(secure: ssl.SSLSocket, endpoint: Endpoint, deadline: float) -> ClientProtocol:
    """Ask for MQTT; what the server sends beyond its answer is in the protocol that is returned.

    :param deadline: monotonic seconds, for the whole answer: each byte of it may come just in time.
    """
    uri = WebSocketURI(True, endpoint.host, endpoint.port, endpoint.path, "")
    protocol = ClientProtocol(uri, subprotocols=[_MQTT], max_size=MAX_MESSAGE_BYTES, logger=_log)
    protocol.send_request(protocol.connect())
    with contextlib.suppress(ConnectionError):
        # A server that refuses our certificate may have hung up already; its alert is still to be read.
        secure.sendall(b"".join(protocol.data_to_send()))
    while protocol.state is CONNECTING and protocol.handshake_exc is None:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the server's answer takes too long")
        secure.settimeout(left_s)
        if data := secure.recv(_READ_BYTES):
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
    if protocol.handshake_exc is not None:
        raise HandshakeFailed(_explain(protocol.handshake_exc)) from protocol.handshake_exc
    if protocol.subprotocol != _MQTT:
        raise HandshakeFailed("the server does not speak MQTT over this WebSocket: check the URL")
    return protocol


def _explain(error: Exception) -> str:
    if isinstance(error, InvalidHeader) and error.name == "Sec-WebSocket-Accept":
        return "the server's WebSocket key is wrong: is there a cache in between?"
    if isinstance(error.__cause__, EOFError):
        return "the server hung up instead of an answer"
    if isinstance(error, InvalidStatus):
        seen = f"the server answers {_shown(f'HTTP/1.1 {error.response.status_code} {error.response.reason_phrase}')}"
    else:
        seen = f"the server's answer is no WebSocket server's ({_shown(str(error.__cause__ or error))})"
    return f"{seen}: check that the URL, with its path, is the bridge's"


def _shown(answer: str) -> str:
    return ascii(answer[:_SHOWN])


class WebSocket:
    """An open connection: ``send`` takes a packet, ``recv`` gives the bytes of binary messages.

    :param sock: the TLS socket; blocking until :meth:`setblocking`.
    :param protocol: open, perhaps with bytes that followed the handshake.
    """

    def __init__(self, sock: ssl.SSLSocket, protocol: ClientProtocol) -> None:
        self._socket = sock
        self._protocol = protocol
        #: Received and not read; framed and not sent.
        self._payload = bytearray()
        self._unsent = bytearray()
        self._closed = False
        self._take()

    # ------------------------------------------------------------ what paho calls

    def recv(self, buffer_size: int) -> bytes:
        """Return up to ``buffer_size`` bytes; none when the connection has ended.

        :raises BlockingIOError: there is nothing now.
        """
        if not self._payload and not self._closed:
            self._fill()
        if not self._payload:
            if self._closed:
                return b""
            raise BlockingIOError
        data = bytes(self._payload[:buffer_size])
        del self._payload[:buffer_size]
        return data

    def send(self, buffer: bytes | bytearray) -> int:
        """Take a whole packet.

        :raises BlockingIOError: the packet before is not sent yet.
        :raises BrokenPipeError: the connection has ended.
        """
        if not self.flush():
            raise BlockingIOError
        if self._closed:
            raise BrokenPipeError
        self._protocol.send_binary(buffer)  # type: ignore[arg-type]  # any buffer will do
        self._flush_frames()
        return len(buffer)

    def close(self) -> None:
        """Close the socket, without a goodbye."""
        self._socket.close()

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:
        """Switch between blocking and not."""
        self._socket.setblocking(flag)

    # ------------------------------------------------------------ what our loop calls

    @property
    def unsent(self) -> bool:
        """Whether a part of a packet waits for room in the socket."""
        return bool(self._unsent)

    @property
    def was_closed(self) -> bool:
        """Whether the server itself has said that it ends the connection."""
        return self._protocol.close_rcvd is not None

    @property
    def pending(self) -> bool:
        """Whether there is something to read that poll does not see."""
        return bool(self._payload) or self._closed or self._socket.pending() > 0

    def flush(self) -> bool:
        """Send what there is room for; True when nothing is left."""
        while self._unsent:
            try:
                sent = self._socket.send(self._unsent)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return False
            del self._unsent[:sent]
        return True

    def end(self, linger_s: float) -> None:
        """End the connection for every process that has its socket.

        :param linger_s: seconds to wait for the other side to hang up first; closing with unread input would make
            the kernel reset the connection, and what was just sent could be lost.
        """
        with contextlib.suppress(OSError):
            if linger_s:
                self._socket.settimeout(linger_s)
                self._socket.sendall(self._unsent)
                self._socket.shutdown(socket.SHUT_WR)
                while self._socket.recv(_READ_BYTES):
                    pass
            self._socket.shutdown(socket.SHUT_RDWR)

    # ------------------------------------------------------------ frames

    def _fill(self) -> None:
        try:
            data = self._socket.recv(_READ_BYTES)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        self._take()

    def _take(self) -> None:
        """Take what the protocol has made of what came: payload, and frames that answer the server's."""
        protocol = self._protocol
        for event in protocol.events_received():
            if not isinstance(event, Frame) or event.opcode not in DATA_OPCODES:
                continue
            if event.opcode is OP_TEXT:
                # MQTT has no text messages [MQTT-6.0.0-1].
                protocol.fail(CloseCode.UNSUPPORTED_DATA)
                break
            self._payload += event.data
        self._closed = protocol.state is not OPEN
        with contextlib.suppress(OSError):
            self._flush_frames()

    def _flush_frames(self) -> None:
        for data in self._protocol.data_to_send():
            self._unsent += data
        self.flush()
