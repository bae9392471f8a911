"""Messages to packets and back.

A packet is one JSON object; a binary message's packet is one JSON line and then its body, compressed with zstd when
that is smaller. A packet over ``MAX_PACKET_BYTES`` travels as fragments and is put together again by the decoder.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import zstandard
from pydantic import ValidationError

from edge_mqtt.broker_bridge.protocol.errors import (
    MalformedMessage,
    MessageTooLarge,
    UnknownKind,
    UnsupportedVersion,
)
from edge_mqtt.broker_bridge.protocol.messages import (
    MESSAGE_ADAPTER,
    PROTOCOL_VERSION,
    AnyMessage,
    BinaryMessage,
    Fragment,
    Message,
)

#: Bytes of one MQTT payload at most. Small enough that a packet never holds up the ones behind it for long on a
#: slow link, large enough that nearly everything travels whole; external brokers allow at least this by default.
MAX_PACKET_BYTES: Final = 128 * 1024
#: Bytes of one message at most, before compression: bounds what a peer can make us hold in memory.
MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
#: Messages that may be incomplete at once on one topic. A sender publishes a message's pieces in a row, so more than
#: a few can only be left over from connections that dropped.
MAX_PARTIAL_MESSAGES: Final = 8
#: Bodies below this many bytes are not worth a compressor call.
COMPRESS_FROM_BYTES: Final = 256
#: zstd's level: 3 is its default, and the point after which CPU grows faster than the gain.
ZSTD_LEVEL: Final = 3
#: Bytes of JSON around a fragment's body, at most.
_FRAGMENT_OVERHEAD_BYTES: Final = 512

_KINDS: Final = frozenset(model.model_fields["kind"].default for model in get_args(get_args(AnyMessage)[0]))


def encode(message: Message, *, message_id: str, sent_at: float) -> list[bytes]:
    """Return the packets for ``message``, to be published in order on one topic.

    :param message_id: unique id of this sending.
    :param sent_at: Unix time in seconds.
    :raises MessageTooLarge: it is over ``MAX_MESSAGE_BYTES``.
    """
    packet = _pack(message, message_id, sent_at)
    if len(packet) <= MAX_PACKET_BYTES:
        return [packet]
    if len(packet) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"a {message.kind} message of {len(packet)} bytes is over the limit of {MAX_MESSAGE_BYTES} bytes"
        )
    room = MAX_PACKET_BYTES - _FRAGMENT_OVERHEAD_BYTES
    pieces = [packet[start : start + room] for start in range(0, len(packet), room)]
    return [
        _line({"kind": "fragment", "v": PROTOCOL_VERSION, "of": message_id, "index": i, "count": len(pieces)})
        + b"\n"
        + piece
        for i, piece in enumerate(pieces)
    ]


def _pack(message: Message, message_id: str, sent_at: float) -> bytes:
    header = message.model_dump(mode="json", exclude_defaults=True)
    header.update(kind=message.kind, v=message.v, id=message_id, sent_at=round(sent_at, 3))
    if not isinstance(message, BinaryMessage):
        return _line(header)
    body = message.body
    if len(body) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"a {message.kind} message of {len(body)} bytes is over the limit of {MAX_MESSAGE_BYTES} bytes"
        )
    if len(body) >= COMPRESS_FROM_BYTES:
        smaller = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(body)
        if len(smaller) < len(body):
            header["enc"] = "zstd"
            body = smaller
    return _line(header) + b"\n" + body


def _line(header: dict[str, Any]) -> bytes:
    # A lone surrogate (a file name that is not UTF-8, in an error's text) has no UTF-8 form.
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


@dataclass(slots=True)
class _Partial:
    count: int
    size: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)


class Decoder:
    """Decodes the packets of one connection; holds the fragments that have arrived."""

    def __init__(self) -> None:
        self._partial: dict[str, dict[str, _Partial]] = {}

    def feed(self, topic: str, payload: bytes) -> Message | None:
        """Return the message that ``payload`` is or completes; None while pieces are missing.

        :raises ProtocolError: the packet is malformed, too large, of an unknown kind or a newer version.
        """
        message = _parse(payload)
        if not isinstance(message, Fragment):
            return message
        whole = self._add(topic, message)
        return None if whole is None else _parse(whole)

    def _add(self, topic: str, fragment: Fragment) -> bytes | None:
        of_topic = self._partial.setdefault(topic, {})
        partial = of_topic.get(fragment.of)
        if partial is None:
            if len(of_topic) >= MAX_PARTIAL_MESSAGES:
                # The oldest can only be one whose sender gave up: it will be sent again whole.
                del of_topic[next(iter(of_topic))]
            partial = of_topic[fragment.of] = _Partial(count=fragment.count)
        if fragment.index not in partial.pieces:
            partial.pieces[fragment.index] = fragment.body
            partial.size += len(fragment.body)
        if partial.size <= MAX_MESSAGE_BYTES and len(partial.pieces) < partial.count:
            return None
        del of_topic[fragment.of]
        if not of_topic:
            del self._partial[topic]
        if partial.size > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(f"a message in pieces is over the limit of {MAX_MESSAGE_BYTES} bytes")
        return b"".join(partial.pieces[i] for i in sorted(partial.pieces))


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
    if kind not in _KINDS:
        raise UnknownKind(str(kind))
    encoding = header.pop("enc", None)
    if newline:
        header["body"] = _decompress(body) if encoding == "zstd" else body
    try:
        return MESSAGE_ADAPTER.validate_python(header)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MalformedMessage(f"malformed {kind} message: {where}: {first['msg']}") from error


def _decompress(body: bytes) -> bytes:
    try:
        size = zstandard.get_frame_parameters(body).content_size
        if size == zstandard.CONTENTSIZE_UNKNOWN:
            raise MalformedMessage("the compressed body does not say how large it is")
        if size > MAX_MESSAGE_BYTES:
            raise MessageTooLarge(f"a body of {size} bytes is over the limit of {MAX_MESSAGE_BYTES} bytes")
        return zstandard.ZstdDecompressor().decompress(body)
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"the body is not valid zstd: {error}") from error
