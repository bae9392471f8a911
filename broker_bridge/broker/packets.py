"""MQTT 3.1.1 packets as bytes: splits a stream into packets, checks what a client sends, builds what it receives.

Pure. Everything that a client sends has passed here: a malformed packet ends its own connection, with one line in the
log, and no other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

#: Bytes of one packet at most. The protocol's largest payload is half of it.
MAX_PACKET_BYTES: Final = 256 * 1024
#: Topic filters of one packet at most. They are worked off in one go, and ours have fewer than ten.
MAX_FILTERS: Final = 200
#: Bytes of a fixed header at most: type and a remaining length of four [MQTT-2.2.3].
_LONGEST_FIXED_HEADER: Final = 5


class PacketError(ValueError):
    """The peer's bytes are not MQTT 3.1.1, or not the part of it that this broker serves."""


class PacketTooLarge(PacketError):
    """A packet is over the limit."""


class PacketType(IntEnum):
    """Control packet types [MQTT-2.2.1]."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14


#: What a connected client may send, with the flags that the fixed header must have [MQTT-2.2.2-2]. QoS 2 is not
#: offered: nothing in our protocol uses it, and its state would have to be kept for every client.
_FLAGS: Final = {
    PacketType.PUBACK: 0b0000,
    PacketType.SUBSCRIBE: 0b0010,
    PacketType.UNSUBSCRIBE: 0b0010,
    PacketType.PINGREQ: 0b0000,
    PacketType.DISCONNECT: 0b0000,
}


#: The answer to a PINGREQ [MQTT-3.13].
PINGRESP: Final = bytes((PacketType.PINGRESP << 4, 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """A client's message."""

    topic: str
    payload: bytes
    retain: bool
    #: To be acknowledged; None for QoS 0.
    packet_id: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Subscribe:
    """What a client wants to receive, or to receive no more."""

    packet_id: int
    #: Topic filters and the QoS asked for.
    filters: tuple[tuple[str, int], ...]


class PacketSplitter:
    """Cuts a stream of bytes into packets."""

    def __init__(self, limit: int = MAX_PACKET_BYTES) -> None:
        #: Bytes of one packet at most.
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add ``data`` and return :meth:`packets`."""
        self.add(data)
        return self.packets()

    def add(self, data: bytes) -> None:
        """Add what has arrived."""
        self._buffer += data

    def packets(self) -> Iterator[bytes]:
        """Take out and yield one complete packet after the other.

        :raises PacketTooLarge: a packet says that it will be over the limit.
        :raises PacketError: a remaining length is malformed.
        """
        while (size := self._next_size()) is not None and size <= len(self._buffer):
            packet = bytes(self._buffer[:size])
            del self._buffer[:size]
            yield packet

    def _next_size(self) -> int | None:
        remaining = 0
        for position in range(1, min(_LONGEST_FIXED_HEADER, len(self._buffer))):
            byte = self._buffer[position]
            remaining |= (byte & 0x7F) << 7 * (position - 1)
            if byte < 0x80:
                if position + 1 + remaining > self.limit:
                    raise PacketTooLarge(f"a packet of {remaining} bytes is over the limit of {self.limit} bytes")
                return position + 1 + remaining
        if len(self._buffer) >= _LONGEST_FIXED_HEADER:
            raise PacketError("malformed remaining length")
        return None


class Cursor:
    """Reads the fields of one packet.

    :param packet: a whole packet; reading begins after its fixed header.
    """

    def __init__(self, packet: bytes) -> None:
        self._packet = packet
        self.position = next(i for i in range(1, len(packet)) if packet[i] < 0x80) + 1

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self._packet) - self.position

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        :raises PacketError: there are not as many.
        """
        if count > self.left:
            raise PacketError("a field is longer than its packet")
        self.position += count
        return self._packet[self.position - count : self.position]

    def number(self) -> int:
        """Return the next two bytes as a number."""
        return int.from_bytes(self.take(2))

    def binary(self) -> bytes:
        """Return the next length-prefixed bytes."""
        return self.take(self.number())

    def text(self) -> str:
        """Return the next string.

        :raises PacketError: it is not UTF-8 or holds U+0000 [MQTT-1.5.3-1, MQTT-1.5.3-2].
        """
        try:
            text = self.binary().decode()
        except UnicodeDecodeError:
            raise PacketError("a string is not UTF-8") from None
        if "\0" in text:
            raise PacketError("a string holds a null character")
        return text


def packet_type(packet: bytes) -> int:
    """Return the type in a packet's fixed header."""
    return packet[0] >> 4


def check_client_packet(packet: bytes) -> None:
    """Let pass what a connected client may send.

    :raises PacketError: the packet is malformed, or of a type or QoS that is not for it to send.
    """
    kind = packet[0] >> 4
    if kind == PacketType.PUBLISH:
        parse_publish(packet)
        return
    try:
        known = PacketType(kind)
    except ValueError:
        raise PacketError(f"packets of type {kind} are not served") from None
    if _FLAGS.get(known) != packet[0] & 0x0F:
        raise PacketError(f"unexpected {known.name} packet (type {kind})")
    if known in (PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE):
        parse_subscribe(packet)
    elif Cursor(packet).left != (2 if known is PacketType.PUBACK else 0):
        raise PacketError(f"malformed {known.name} packet")


def parse_publish(packet: bytes) -> Publish:
    """Return the message in a PUBLISH packet.

    :raises PacketError: it is malformed, or of a QoS that is not served.
    """
    flags = packet[0] & 0x0F
    qos = flags >> 1 & 0b11
    if qos > 1:
        raise PacketError(f"QoS {qos} is not served: use 0 or 1")
    if qos == 0 and flags & 0b1000:
        raise PacketError("a QoS 0 message is marked as a duplicate")
    cursor = Cursor(packet)
    topic = cursor.text()
    if not topic or "+" in topic or "#" in topic or topic.startswith("$"):
        raise PacketError("a message's topic is empty, has wildcards or begins with $")
    packet_id = cursor.number() if qos else None
    if packet_id == 0:
        raise PacketError("a QoS 1 message has no packet id")
    return Publish(topic=topic, payload=cursor.take(cursor.left), retain=bool(flags & 1), packet_id=packet_id)


def parse_subscribe(packet: bytes) -> Subscribe:
    """Return the topic filters in a SUBSCRIBE or UNSUBSCRIBE packet; those of the latter have QoS 0.

    :raises PacketError: it is malformed.
    """
    cursor = Cursor(packet)
    packet_id = cursor.number()
    if packet_id == 0 or not cursor.left:
        raise PacketError("a subscription has no packet id or no topic filter")
    with_qos = packet_type(packet) == PacketType.SUBSCRIBE
    filters: list[tuple[str, int]] = []
    while cursor.left:
        topic_filter = cursor.text()
        if not topic_filter:
            raise PacketError("a topic filter is empty")
        qos = cursor.take(1)[0] if with_qos else 0
        if qos > 2:
            raise PacketError("a subscription's QoS is malformed")
        if len(filters) == MAX_FILTERS:
            raise PacketError(f"a subscription has more than {MAX_FILTERS} topic filters")
        filters.append((topic_filter, qos))
    return Subscribe(packet_id=packet_id, filters=tuple(filters))


def puback_id(packet: bytes) -> int:
    """Return the packet id that a PUBACK acknowledges."""
    return int.from_bytes(packet[-2:])


def build_publish(topic: str, payload: bytes, *, packet_id: int | None, retain: bool) -> bytes:
    """Return a PUBLISH packet.

    :param packet_id: for QoS 1; None for QoS 0.
    """
    name = topic.encode()
    head = len(name).to_bytes(2) + name
    if packet_id is not None:
        head += packet_id.to_bytes(2)
    flags = (0b0010 if packet_id is not None else 0) | (0b0001 if retain else 0)
    size = remaining_length(len(head) + len(payload))
    return b"".join((bytes((PacketType.PUBLISH << 4 | flags,)), size, head, payload))


def build_puback(packet_id: int) -> bytes:
    """Return the PUBACK packet for a message."""
    return bytes((PacketType.PUBACK << 4, 2)) + packet_id.to_bytes(2)


def build_suback(packet_id: int, codes: Sequence[int]) -> bytes:
    """Return the SUBACK packet: for every topic filter the QoS that is granted, or a refusal [MQTT-3.9.3]."""
    head = bytes((PacketType.SUBACK << 4,)) + remaining_length(2 + len(codes))
    return head + packet_id.to_bytes(2) + bytes(codes)


def build_unsuback(packet_id: int) -> bytes:
    """Return the UNSUBACK packet."""
    return bytes((PacketType.UNSUBACK << 4, 2)) + packet_id.to_bytes(2)


def build_connack(code: int) -> bytes:
    """Return the CONNACK packet for a new session [MQTT-3.2]."""
    return bytes((PacketType.CONNACK << 4, 2, 0, code))


def remaining_length(length: int) -> bytes:
    """Return ``length`` as the fixed header has it [MQTT-2.2.3]."""
    encoded = bytearray()
    while True:
        length, byte = length >> 7, length & 0x7F
        encoded.append(byte | (0x80 if length else 0))
        if not length:
            return bytes(encoded)
