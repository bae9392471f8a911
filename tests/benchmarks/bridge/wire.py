"""MQTT over a WebSocket over TLS, as thin as it can be, so that the load costs less than what is measured."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from typing import Final

from edge_mqtt.broker_bridge.broker.packets import remaining_length
from edge_mqtt.broker_bridge.protocol.qos import qos_of

#: Bytes of one read.
_READ_BYTES: Final = 64 * 1024
_UPGRADE: Final = (
    b"GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
)
CONNACK, PUBLISH, PUBACK, SUBACK, PINGRESP = 2, 3, 4, 9, 13
_PING: Final = b"\xc0\x00"


def _text(value: bytes) -> bytes:
    return len(value).to_bytes(2) + value


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + remaining_length(len(body)) + body


def connect_packet(client_id: str, *, keep_alive_s: int, will: tuple[bytes, bytes] | None) -> bytes:
    """Return a CONNECT packet with a clean session and, perhaps, a retained will of QoS 1."""
    flags = 0x82 | (0x2C if will else 0)
    body = _text(b"MQTT") + bytes((4, flags)) + keep_alive_s.to_bytes(2) + _text(client_id.encode())
    if will:
        body += _text(will[0]) + _text(will[1])
    return _packet(0x10, body + _text(b"incarnation"))


def subscribe_packet(*filters: bytes) -> bytes:
    """Return a SUBSCRIBE packet with QoS 1 for every filter."""
    return _packet(0x82, b"\0\1" + b"".join(_text(one) + b"\1" for one in filters))


def publish_head(topic: bytes, kind: str, *, retain: bool = False) -> tuple[int, bytes]:
    """Return what :meth:`Connection.publish` needs of a topic on which messages of one kind go."""
    return 0x30 | qos_of(kind) << 1 | retain, _text(topic)


class Connection:
    """One client's connection; never blocks. Every packet travels as a WebSocket frame and TLS record of its own.

    paho sends it so, and what is measured must not be spared what real workers cost.

    :param received: told of every packet: its type, its flags, and where its body begins and ends in the buffer.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        address: tuple[str, int],
        connect: bytes,
        received: Callable[[int, int, bytes], None],
    ) -> None:
        self._connect = connect
        self._received = received
        plain = socket.socket()
        plain.setblocking(False)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        plain.connect_ex(address)
        self._context = context
        self._plain = plain
        self._secure: ssl.SSLSocket | None = None
        self._secured = False
        self._upgraded = False
        self._frames = b""
        self._packets = b""
        self._unsent: list[bytes] = []
        self._last_id = 0

    def fileno(self) -> int:
        """Return the descriptor to watch."""
        return (self._secure or self._plain).fileno()

    @property
    def _tls(self) -> ssl.SSLSocket:
        if self._secure is None:
            raise RuntimeError("the connection is not up")
        return self._secure

    def cut(self) -> None:
        """End the connection without a word, by a reset."""
        connection = self._secure or self._plain
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()

    def ready(self) -> None:
        """Do what can be done after the descriptor has become readable or writable.

        :raises OSError: the connection has ended.
        """
        if self._secure is None and not self._connected():
            return
        if not self._secured and not self._handshake():
            return
        while self._unsent:
            if not self._write(self._unsent[0]):
                return
            del self._unsent[0]
        self._read()

    def _connected(self) -> bool:
        error = self._plain.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, os.strerror(error))
        try:
            self._plain.getpeername()
        except OSError:
            return False
        # The descriptor stays the same.
        self._secure = self._context.wrap_socket(
            self._plain, server_hostname="localhost", do_handshake_on_connect=False
        )
        return True

    def _handshake(self) -> bool:
        try:
            self._tls.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        self._secured = True
        self._write(_UPGRADE)
        return True

    def _write(self, data: bytes) -> bool:
        try:
            self._tls.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    def send(self, packet: bytes) -> None:
        """Send one packet."""
        size = len(packet)
        head = bytes((0x82, 0x80 | size)) if size < 126 else b"\x82\xfe" + size.to_bytes(2)
        # Masked with zeros: legal, and it costs nothing here. The receiver unmasks it all the same.
        data = head + b"\0\0\0\0" + packet
        if self._unsent or not self._write(data):
            self._unsent.append(data)

    def publish(self, head: tuple[int, bytes], payload: bytes) -> None:
        """Publish one message."""
        first, body = head
        if first & 0b0010:
            self._last_id = self._last_id % 65535 + 1
            body += self._last_id.to_bytes(2)
        body += payload
        self.send(bytes((first,)) + remaining_length(len(body)) + body)

    def ping(self) -> None:
        """Keep the connection alive."""
        self.send(_PING)

    def _read(self) -> None:
        while True:
            try:
                data = self._tls.recv(_READ_BYTES)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return
            if not data:
                raise ConnectionResetError("the bridge closed the connection")
            self._frames += data
            if not self._upgraded:
                head, end, self._frames = self._frames.partition(b"\r\n\r\n")
                if not end:
                    self._frames = head
                    continue
                if b" 101 " not in head:
                    raise ConnectionRefusedError(head.decode())
                self._upgraded = True
                self.send(self._connect)
            self._take_frames()

    def _take_frames(self) -> None:
        frames, at = self._frames, 0
        while len(frames) - at >= 2:
            size, begin = frames[at + 1], at + 2
            if size == 126:
                size, begin = int.from_bytes(frames[at + 2 : at + 4]), at + 4
            elif size == 127:
                size, begin = int.from_bytes(frames[at + 2 : at + 10]), at + 10
            if begin + size > len(frames):
                break
            if frames[at] & 0x0F == 8:
                raise ConnectionResetError("the bridge said goodbye")
            self._packets += frames[begin : begin + size]
            at = begin + size
        self._frames = frames[at:]
        self._take_packets()

    def _take_packets(self) -> None:
        data, at = self._packets, 0
        while len(data) - at >= 2:
            size, begin, shift = 0, at + 1, 0
            while True:
                byte = data[begin]
                begin += 1
                size |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
            if begin + size > len(data):
                break
            self._packet(data[at], data[begin : begin + size])
            at = begin + size
        self._packets = data[at:]

    def _packet(self, first: int, body: bytes) -> None:
        kind = first >> 4
        if kind != PUBLISH:
            self._received(kind, 0, body)
            return
        start = 2 + int.from_bytes(body[:2])
        if first & 0b0110:
            self.send(b"\x40\x02" + body[start : start + 2])
            start += 2
        self._received(kind, start, body)
