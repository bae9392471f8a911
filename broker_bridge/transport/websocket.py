"""A WebSocket client over TLS (RFC 6455) that looks like a socket to paho.

paho has one, which masks a packet byte by byte in Python (13 ms for 128 KiB), answers pings with frames that the
standard forbids, leaves its socket open when connecting fails and does not say what the server answered.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from edge_mqtt.broker_bridge.transport.endpoint import Endpoint, Proxy

#: What the server's key is made with (RFC 6455, section 1.3).
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Bytes that the server's answer may have.
_MAX_ANSWER_BYTES: Final = 16 * 1024
#: Bytes to ask the kernel for at a time.
_READ_BYTES: Final = 64 * 1024

_CONTINUATION, _TEXT, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
_FINAL: Final = 0x80
_MASKED: Final = 0x80
#: Frames up to this many bytes have their length in the second byte; larger ones in two or eight more.
_SHORT: Final = 125
_MEDIUM: Final = 0xFFFF


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


def _shake_hands(secure: ssl.SSLSocket, endpoint: Endpoint, deadline: float) -> bytes:
    """Ask for MQTT and return what the server has sent beyond its answer.

    :param deadline: monotonic seconds, for the whole answer: each byte of it may come just in time.
    """
    key = base64.b64encode(os.urandom(16))
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    request = (
        f"GET {endpoint.path} HTTP/1.1\r\nHost: {host}:{endpoint.port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key.decode()}\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Protocol: mqtt\r\n\r\n"
    )
    with contextlib.suppress(ConnectionError):
        # A server that refuses our certificate may have hung up already; its alert is still to be read.
        secure.sendall(request.encode())
    answer = bytearray()
    while b"\r\n\r\n" not in answer:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the server's answer takes too long")
        secure.settimeout(left_s)
        data = secure.recv(_READ_BYTES)
        answer += data
        if not data or len(answer) > _MAX_ANSWER_BYTES:
            raise HandshakeFailed("the server hung up instead of an answer" if not data else "endless answer")
    head, _, rest = bytes(answer).partition(b"\r\n\r\n")
    status, _, fields = head.partition(b"\r\n")
    if not status.startswith(b"HTTP/1.1 101"):
        line = status.decode("ascii", "replace")[:80]
        raise HandshakeFailed(f"the server answers {line!r}: check that the URL, with its path, is the bridge's")
    expected = base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())
    headers = {name.strip().lower(): value.strip() for name, _, value in _split(fields)}
    if headers.get(b"sec-websocket-accept") != expected:
        raise HandshakeFailed("the server's WebSocket key is wrong: is there a cache in between?")
    if headers.get(b"sec-websocket-protocol") != b"mqtt":
        raise HandshakeFailed("the server does not speak MQTT over this WebSocket: check the URL")
    return rest


def _split(fields: bytes) -> list[tuple[bytes, bytes, bytes]]:
    return [line.partition(b":") for line in fields.split(b"\r\n")]


class WebSocket:
    """An open connection: ``send`` takes a packet, ``recv`` gives the bytes of binary messages.

    :param sock: the TLS socket; blocking until :meth:`setblocking`.
    :param early: bytes that followed the handshake.
    """

    def __init__(self, sock: ssl.SSLSocket, early: bytes) -> None:
        self._socket = sock
        #: Received and not parsed; parsed and not read; framed and not sent.
        self._raw = bytearray(early)
        self._payload = bytearray()
        self._unsent = bytearray()
        #: Bytes of the present data frame that are to come.
        self._left = 0
        self._closed = False
        self._parse()

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
        """
        if not self.flush():
            raise BlockingIOError
        self._unsent += _frame(_BINARY, buffer)
        self.flush()
        return len(buffer)

    def close(self) -> None:
        """Close the socket; nothing is said."""
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
        if not data:
            self._closed = True
        self._raw += data
        self._parse()

    def _parse(self) -> None:
        while self._raw and not self._closed:
            if self._left:
                part = self._raw[: self._left]
                self._payload += part
                self._left -= len(part)
                del self._raw[: len(part)]
            elif not self._parse_header():
                return

    def _parse_header(self) -> bool:
        """Take a frame's header, and the whole frame when it is a control frame; False when bytes are missing."""
        raw = self._raw
        if len(raw) < 2:
            return False
        opcode, length, start = raw[0] & 0x0F, raw[1] & 0x7F, 2
        if length > _SHORT:
            start += 2 if length == _SHORT + 1 else 8
            if len(raw) < start:
                return False
            length = int.from_bytes(raw[2:start])
        if opcode in (_BINARY, _CONTINUATION):
            del raw[:start]
            self._left = length
            return True
        if len(raw) < start + length and length <= _SHORT:
            return False
        content = bytes(raw[start : start + length])
        del raw[: start + length]
        if opcode == _PING:
            self._unsent += _frame(_PONG, content)
        elif opcode != _PONG:
            # The server's goodbye; or a text message, which MQTT does not have.
            self._closed = True
            self._unsent += _frame(_CLOSE, content[:2])
        if self._unsent:
            with contextlib.suppress(OSError):
                self.flush()
        return True


def _frame(opcode: int, data: bytes | bytearray) -> bytes:
    size = len(data)
    if size <= _SHORT:
        head = bytes((_FINAL | opcode, _MASKED | size))
    elif size <= _MEDIUM:
        head = bytes((_FINAL | opcode, _MASKED | _SHORT + 1)) + size.to_bytes(2)
    else:
        head = bytes((_FINAL | opcode, _MASKED | _SHORT + 2)) + size.to_bytes(8)
    key = os.urandom(4)
    # One big number each: exclusive or without a loop in Python.
    mask = (key * (size // 4 + 1))[:size]
    return head + key + (int.from_bytes(data) ^ int.from_bytes(mask)).to_bytes(size)
