"""docs/protocol/vectors.json: the bytes of every kind of message, both ways, for implementations in any language."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode, read, write
from edge_mqtt.broker_bridge.protocol.compression import MAGIC, decompress
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.messages import MESSAGE_OF_KIND, Fragment, Message

FILE = Path(__file__).parents[4] / "docs/protocol/vectors.json"
VECTORS: list[dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
SENT = [vector for vector in VECTORS if not vector.get("only_decoded")]


def name(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def plain(vector: dict[str, Any]) -> bytes:
    """Return the line of JSON and the body."""
    line = str(vector["line"]).encode()
    return line + b"\n" + base64.b64decode(vector["body"]) if "body" in vector else line


def packets(vector: dict[str, Any]) -> list[bytes]:
    return [base64.b64decode(packet) for packet in vector["packets"]]


def decoded(vector: dict[str, Any]) -> Message | None:
    decoder = Decoder()
    return [decoder.feed(vector["topic"], packet) for packet in packets(vector)][-1]


def test_there_is_one_of_every_kind() -> None:
    assert {json.loads(vector["line"])["kind"] for vector in SENT} == set(MESSAGE_OF_KIND)


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_packets_are_the_message(vector: dict[str, Any]) -> None:
    message = read(plain(vector))
    if isinstance(message, Fragment):
        # The others of its packet are not there.
        assert decoded(vector) is None
        assert read(packets(vector)[0]) == message
    else:
        assert decoded(vector) == message


@pytest.mark.parametrize("vector", SENT, ids=name)
def test_message_is_the_packets(vector: dict[str, Any]) -> None:
    message = read(plain(vector))
    assert write(message) == plain(vector)
    (sent,), (packet,) = encode(message), packets(vector)
    if packet.startswith(MAGIC):
        # Another release of zstd may find other words for it.
        assert len(sent) <= 1.1 * len(packet)
        sent, packet = decompress(sent, MAX_MESSAGE_BYTES), decompress(packet, MAX_MESSAGE_BYTES)
    assert sent == packet


def test_packets_of_all_three_forms_are_among_them() -> None:
    first = [packets(vector)[0] for vector in VECTORS]
    assert any(packet.startswith(b"{") and b"\n" not in packet for packet in first)
    assert any(packet.startswith(b"{") and b"\n" in packet for packet in first)
    assert any(packet.startswith(MAGIC) for packet in first)
