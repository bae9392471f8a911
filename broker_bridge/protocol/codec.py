"""Messages to packets and back.

A packet is one line of JSON; a binary message's packet is that line, a line feed and then its body. Either is
compressed where that makes it smaller (see compression) and there is not too much JSON. A packet that is larger than
those of its kind may be travels as fragments and is put together again by the decoder.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from pydantic import ValidationError

from edge_mqtt.broker_bridge.protocol.compression import MAGIC, compress, decompress
from edge_mqtt.broker_bridge.protocol.errors import (
    CannotBeSent,
    MalformedMessage,
    MalformedSubmit,
    MessageTooLarge,
    UnknownKind,
    UnsupportedVersion,
    problem_of,
)
from edge_mqtt.broker_bridge.protocol.fragments import Fragments
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.limits import MAX_COMPRESSED_JSON_BYTES, MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.messages import (
    MESSAGE_OF_KIND,
    PROTOCOL_VERSION,
    BinaryMessage,
    ErrorReply,
    Fragment,
    Message,
    Presence,
    Submit,
)
from edge_mqtt.broker_bridge.protocol.messages.bounds import is_job_id
from edge_mqtt.broker_bridge.protocol.qos import largest_packet
from edge_mqtt.broker_bridge.protocol.topics import sender_of

#: Bytes of JSON around a fragment's body, at most.
_FRAGMENT_OVERHEAD_BYTES: Final = 128
#: Bytes of what tells the fragments of one message from those of another.
_FRAGMENT_ID_BYTES: Final = 12


def encode(message: Message) -> list[bytes]:
    """Return the packets for ``message``, to be published in order on one topic.

    :raises CannotBeSent: it is over ``MAX_MESSAGE_BYTES``, or JSON or UTF-8 cannot express it.
    """
    plain = write(message)
    if len(plain) > MAX_MESSAGE_BYTES:
        raise MessageTooLarge(
            f"a {message.kind} message of {len(plain)} bytes is over the limit of {MAX_MESSAGE_BYTES} bytes"
        )
    # What says that the versions differ must be read by every other version, whatever dictionary it has.
    is_plain = isinstance(message, ErrorReply | Fragment) or not _is_compressible(plain)
    packet = plain if is_plain else compress(plain)
    most = largest_packet(message.kind)
    return [packet] if len(packet) <= most else _split(packet, most)


def _split(packet: bytes, most: int) -> list[bytes]:
    # What is sent again has the same fragments: those of one sending may complete another.
    of = hashlib.blake2b(packet, digest_size=_FRAGMENT_ID_BYTES).hexdigest()
    room = most - _FRAGMENT_OVERHEAD_BYTES
    bodies = [packet[start : start + room] for start in range(0, len(packet), room)]
    # As write() does it, which takes twenty times as long: of a large message there are thousands.
    header = write(Fragment(of=of, index=0, count=len(bodies))).replace(b'"index":0', b'"index":%d')
    return [header % index + body for index, body in enumerate(bodies)]


def _is_compressible(plain: bytes) -> bool:
    return len(plain) <= MAX_COMPRESSED_JSON_BYTES or plain.find(b"\n", 0, MAX_COMPRESSED_JSON_BYTES + 1) >= 0


def write(message: Message) -> bytes:
    """Return ``message`` as it is before it is compressed.

    :raises CannotBeSent: JSON or UTF-8 cannot express it.
    """
    try:
        header = message.model_dump(mode="json", exclude_defaults=True)
        header.update(kind=message.kind, v=message.v)
        line = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise CannotBeSent(f"a {message.kind} message cannot be sent: {error}") from error
    return line + b"\n" + message.body if isinstance(message, BinaryMessage) else line


class Decoder:
    """Decodes the packets of one connection; holds the fragments that have arrived."""

    def __init__(self) -> None:
        self._fragments = Fragments()

    def feed(self, topic: str, payload: bytes) -> Message | None:
        """Return the message that ``payload`` is or completes; None while fragments are missing.

        :raises ProtocolError: the packet is malformed, too large, of an unknown kind or a newer version.
        """
        message = read(payload)
        if isinstance(message, Fragment):
            whole = self._fragments.add(sender_of(topic), topic, message, MAX_MESSAGE_BYTES)
            if whole is None:
                return None
            message = read(whole)
        if isinstance(message, Presence) and message.begins_or_ends_connection:
            # What was not complete never will be: its sender publishes all of it again.
            self._fragments.forget(sender_of(topic))
        return message


def read(packet: bytes) -> Message:
    """Return the message that is one packet: a fragment when it is one.

    :raises ProtocolError: the packet is malformed, too large, of an unknown kind or a newer version.
    """
    if not packet.startswith(MAGIC):
        return _parse(packet)
    plain = decompress(packet, MAX_MESSAGE_BYTES)
    if not _is_compressible(plain):
        raise MalformedMessage(f"over {MAX_COMPRESSED_JSON_BYTES} bytes of JSON are compressed")
    message = _parse(plain)
    if isinstance(message, Fragment):
        # Fragments are of what is compressed already: this could only be meant to fill our memory.
        raise MalformedMessage("a fragment is compressed")
    return message


def _parse(plain: bytes) -> Message:
    line, _, body = plain.partition(b"\n")
    header = _parse_line(line)
    version, kind = header.get("v", PROTOCOL_VERSION), header.get("kind")
    if not isinstance(version, int):
        raise MalformedMessage("not a message of ours: v is not a number")
    # An error of an older program says that this one is too new.
    if version > PROTOCOL_VERSION or (version < PROTOCOL_VERSION and kind != "error"):
        raise UnsupportedVersion(version, PROTOCOL_VERSION)
    if not isinstance(kind, str):
        raise MalformedMessage("not a message of ours: kind is missing, or not text")
    model = MESSAGE_OF_KIND.get(kind)
    if model is None:
        raise UnknownKind(kind)
    header["body"] = body
    try:
        return model.model_validate(header)
    except ValidationError as error:
        problem = f"malformed {kind} message: {problem_of(error)}"
        job_id = _submitted_job(header) if model is Submit else None
        raise (MalformedMessage(problem) if job_id is None else MalformedSubmit(problem, job_id)) from error


def _submitted_job(header: dict[str, Any]) -> JobId | None:
    """Return the id of the job in a submission of which something else is wrong."""
    job = header.get("job")
    job_id = job.get("job_id") if isinstance(job, dict) else None
    return JobId(job_id) if isinstance(job_id, str) and is_job_id(job_id) else None


def _parse_line(line: bytes) -> dict[str, Any]:
    try:
        # Decoded here: json.loads takes bytes for UTF-16 or UTF-32 where they look like it, and lets surrogates pass.
        header = json.loads(line.decode())
        if b"\\ud" in line.lower():
            # JSON can spell half a character, which nothing behind us could store or send on.
            json.dumps(header, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"not a message of ours: {error}") from error
    if not isinstance(header, dict):
        raise MalformedMessage("not a message of ours: the header is not a JSON object")
    return header
