"""Messages to packets and back.

A packet is one JSON object; a binary message's packet is one JSON line and then its body. Either is packed where that
makes it smaller (see packing) and there is not too much JSON. A packet over ``MAX_PACKET_BYTES`` travels as fragments
and is put together again by the decoder.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from pydantic import ValidationError

from edge_mqtt.broker_bridge.protocol.compression import MAGIC, pack, unpack
from edge_mqtt.broker_bridge.protocol.errors import (
    MalformedMessage,
    MessageTooLarge,
    UnknownKind,
    UnsupportedVersion,
)
from edge_mqtt.broker_bridge.protocol.fragments import Fragments
from edge_mqtt.broker_bridge.protocol.messages import (
    MESSAGE_OF_KIND,
    PROTOCOL_VERSION,
    BinaryMessage,
    ErrorReply,
    Fragment,
    Message,
    Presence,
)
from edge_mqtt.broker_bridge.protocol.topics import sender_of

#: Bytes of one MQTT payload at most. Small enough that a packet never holds up the ones behind it for long on a
#: slow link, large enough that nearly everything travels whole; external brokers allow at least this by default.
MAX_PACKET_BYTES: Final = 128 * 1024
#: Bytes of one message at most, before compression: bounds what a peer can make us hold in memory.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
#: Bytes of JSON in a packed message at most; the body may have any size. JSON that is read takes up to thirty times
#: its size, and its time: a few bytes from a peer that means ill must not cost us seconds in which nobody is served.
MAX_PACKED_JSON_BYTES: Final = 32 * 1024
#: Bytes of JSON around a fragment's body, at most.
_FRAGMENT_OVERHEAD_BYTES: Final = 512
#: Bytes of what tells the pieces of one message from those of another.
_FRAGMENT_ID_BYTES: Final = 12


def encode(message: Message) -> list[bytes]:
    """Return the packets for ``message``, to be published in order on one topic.

    :raises MessageTooLarge: it is over ``MAX_MESSAGE_BYTES``.
    """
    plain = write(message)
    if len(plain) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"a {message.kind} message of {len(plain)} bytes is over the limit of {MAX_MESSAGE_BYTES} bytes"
        )
    # What says that the versions differ must be read by every other version, whatever dictionary it has.
    packet = plain if isinstance(message, ErrorReply) or not _is_packable(plain) else pack(plain)
    if len(packet) <= MAX_PACKET_BYTES:
        return [packet]
    # What is sent again has the same pieces: those of one sending may complete another.
    of = hashlib.blake2b(packet, digest_size=_FRAGMENT_ID_BYTES).hexdigest()
    room = MAX_PACKET_BYTES - _FRAGMENT_OVERHEAD_BYTES
    pieces = [packet[start : start + room] for start in range(0, len(packet), room)]
    return [
        _line({"kind": "fragment", "v": PROTOCOL_VERSION, "of": of, "index": i, "count": len(pieces)}) + b"\n" + piece
        for i, piece in enumerate(pieces)
    ]


def _is_packable(plain: bytes) -> bool:
    return len(plain) <= MAX_PACKED_JSON_BYTES or plain.find(b"\n", 0, MAX_PACKED_JSON_BYTES + 1) >= 0


def write(message: Message) -> bytes:
    """Return ``message`` as it is before it is packed."""
    header = message.model_dump(mode="json", exclude_defaults=True)
    header.update(kind=message.kind, v=message.v)
    line = _line(header)
    return line + b"\n" + message.body if isinstance(message, BinaryMessage) else line


def _line(header: dict[str, Any]) -> bytes:
    # A lone surrogate (a file name that is not UTF-8, in an error's text) has no UTF-8 form.
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


class Decoder:
    """Decodes the packets of one connection; holds the fragments that have arrived."""

    def __init__(self) -> None:
        self._pieces = Fragments()

    def feed(self, topic: str, payload: bytes) -> Message | None:
        """Return the message that ``payload`` is or completes; None while pieces are missing.

        :raises ProtocolError: the packet is malformed, too large, of an unknown kind or a newer version.
        """
        message = _read(payload)
        if isinstance(message, Fragment):
            whole = self._pieces.add(sender_of(topic), topic, message, MAX_MESSAGE_BYTES)
            if whole is None:
                return None
            message = _read(whole)
        if isinstance(message, Presence) and message.begins_or_ends_connection:
            # What was not complete never will be: its sender publishes all of it again.
            self._pieces.forget(sender_of(topic))
        return message


def _read(packet: bytes) -> Message:
    if not packet.startswith(MAGIC):
        return _parse(packet)
    plain = unpack(packet, MAX_MESSAGE_BYTES)
    if not _is_packable(plain):
        raise MalformedMessage(f"over {MAX_PACKED_JSON_BYTES} bytes of JSON are compressed")
    message = _parse(plain)
    if isinstance(message, Fragment):
        # Nobody packs pieces of what is packed: this could only be meant to fill our memory.
        raise MalformedMessage("a fragment is compressed")
    return message


def _parse(payload: bytes) -> Message:
    line, newline, body = payload.partition(b"\n")
    try:
        header = json.loads(line)
        if b"\\ud" in line.lower():
            # JSON can spell half a character, which nothing behind us could store or send on.
            json.dumps(header, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"not a message of ours: {error}") from error
    if not isinstance(header, dict):
        raise MalformedMessage("not a message of ours: the header is not a JSON object")
    version = header.get("v")
    if isinstance(version, int) and version > PROTOCOL_VERSION:
        raise UnsupportedVersion(version, PROTOCOL_VERSION)
    kind = header.get("kind")
    model = MESSAGE_OF_KIND.get(kind) if isinstance(kind, str) else None
    if model is None:
        raise UnknownKind(str(kind))
    if newline:
        header["body"] = body
    try:
        return model.model_validate(header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MalformedMessage(f"malformed {kind} message: {where}: {first['msg']}") from error
