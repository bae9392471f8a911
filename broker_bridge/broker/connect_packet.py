"""The CONNECT packet [MQTT-3.1], read before a session begins, and why it is refused. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from edge_mqtt.broker_bridge.broker.packets import Cursor, PacketError, PacketType, packet_type

#: The only protocol level that is served: MQTT 3.1.1 [MQTT-3.1.2-2].
PROTOCOL_LEVEL: Final = 4
#: Bytes of a CONNECT packet at most; the largest part is the will.
MAX_CONNECT_BYTES: Final = 16 * 1024
#: Seconds of keep alive for clients that ask for none: without it a dead one would be kept for ever.
DEFAULT_KEEP_ALIVE_S: Final = 60

_USERNAME: Final = 0x80
_PASSWORD: Final = 0x40
_WILL_RETAIN: Final = 0x20
_WILL_QOS: Final = 0x18
_WILL: Final = 0x04
_CLEAN_SESSION: Final = 0x02
_RESERVED: Final = 0x01


class ConnackCode(IntEnum):
    """Why a connection is refused: CONNACK's return code [MQTT-3.2.2-4]."""

    #: It is not MQTT 3.1.1.
    WRONG_VERSION = 1
    #: Another program is connected under this client id.
    NAME_IN_USE = 2
    #: The old connection of the same program does not end.
    UNAVAILABLE = 3
    #: The certificate and what CONNECT asks for do not fit together.
    NOT_AUTHORIZED = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectPacket:
    """What a client says of itself when it connects."""

    protocol_level: int
    client_id: str
    #: The incarnation of the program, for ours.
    username: str
    clean_session: bool
    #: Seconds.
    keep_alive_s: int
    will_topic: str | None
    #: Where the keep alive stands in the packet.
    keep_alive_offset: int


def parse_connect(packet: bytes) -> ConnectPacket:
    """Parse a whole CONNECT packet.

    Of another protocol level only the level is read: what follows it may have another form.

    :raises PacketError: it is another packet, or malformed.
    """
    if packet_type(packet) != PacketType.CONNECT or packet[0] & 0x0F:
        raise PacketError("the first packet is not CONNECT")
    cursor = Cursor(packet)
    protocol = cursor.text()
    level = cursor.take(1)[0]
    if (protocol, level) != ("MQTT", PROTOCOL_LEVEL):
        if protocol not in ("MQTT", "MQIsdp"):
            raise PacketError("the protocol's name is not MQTT")
        return _unsupported(level)
    flags = cursor.take(1)[0]
    _check_flags(flags)
    keep_alive_offset = cursor.position
    keep_alive_s = cursor.number()
    client_id = cursor.text()
    will_topic = cursor.text() if flags & _WILL else None
    if flags & _WILL:
        cursor.binary()
    username = cursor.text() if flags & _USERNAME else ""
    if flags & _PASSWORD:
        cursor.binary()
    if cursor.left:
        raise PacketError("bytes follow the last field of CONNECT")
    return ConnectPacket(
        protocol_level=level,
        client_id=client_id,
        username=username,
        clean_session=bool(flags & _CLEAN_SESSION),
        keep_alive_s=keep_alive_s or DEFAULT_KEEP_ALIVE_S,
        will_topic=will_topic,
        keep_alive_offset=keep_alive_offset,
    )


def without_keep_alive(packet: bytes, parsed: ConnectPacket) -> bytes:
    """Return the CONNECT packet with its keep alive set to none."""
    start = parsed.keep_alive_offset
    return packet[:start] + b"\0\0" + packet[start + 2 :]


def _check_flags(flags: int) -> None:
    if flags & _RESERVED:
        raise PacketError("CONNECT's reserved flag is set")  # [MQTT-3.1.2-3]
    if flags & _WILL_QOS == _WILL_QOS:
        raise PacketError("the will's QoS is malformed")  # [MQTT-3.1.2-14]
    if not flags & _WILL and flags & (_WILL_QOS | _WILL_RETAIN):
        raise PacketError("there is no will, but its flags are set")  # [MQTT-3.1.2-11]
    if flags & _PASSWORD and not flags & _USERNAME:
        raise PacketError("CONNECT has a password and no user name")  # [MQTT-3.1.2-22]


def _unsupported(level: int) -> ConnectPacket:
    return ConnectPacket(
        protocol_level=level,
        client_id="",
        username="",
        clean_session=True,
        keep_alive_s=DEFAULT_KEEP_ALIVE_S,
        will_topic=None,
        keep_alive_offset=0,
    )
