"""Whatever bytes a client sends: they are refused or understood, never answered with another error."""

from __future__ import annotations

import contextlib

from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.broker.connect_packet import parse_connect, without_keep_alive
from edge_mqtt.broker_bridge.broker.packets import (
    Cursor,
    PacketError,
    PacketSplitter,
    PacketType,
    build_publish,
    check_client_packet,
    packet_type,
    puback_id,
    remaining_length,
)

CONNECT = b"\x10\x20\x00\x04MQTT\x04\x82\x00\x3c\x00\x0cworker:lab-3\x00\x03one"
SUBSCRIBE = b"\x82\x08\x00\x01\x00\x03a/+\x01"


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Bytes that resemble packets: valid ones with a few bytes changed, cut or added."""
    data = bytearray(
        draw(st.sampled_from([CONNECT, SUBSCRIBE, build_publish("a/b", b"x", packet_id=1, retain=False)]))
    )
    for _ in range(draw(st.integers(0, 4))):
        position = draw(st.integers(0, len(data)))
        data[position : position + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@settings(deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=64), mutated()), max_size=8))
@example([CONNECT, SUBSCRIBE])
def test_any_stream_is_cut_and_checked_or_refused(chunks: list[bytes]) -> None:
    splitter = PacketSplitter(limit=4096)
    with contextlib.suppress(PacketError):
        for chunk in chunks:
            for packet in splitter.feed(chunk):
                assert 2 <= len(packet) <= 4096
                check_client_packet(packet)
                if packet_type(packet) == PacketType.PUBACK:
                    assert 0 <= puback_id(packet) <= 0xFFFF


@settings(deadline=None)
@given(mutated(), st.binary(max_size=20))
@example(CONNECT, b"")
def test_any_connect_is_understood_or_refused(data: bytes, more: bytes) -> None:
    with contextlib.suppress(PacketError):
        for packet in PacketSplitter().feed(data + more):
            parsed = parse_connect(packet)
            if parsed.protocol_level == 4:
                again = parse_connect(without_keep_alive(packet, parsed))
                assert (again.client_id, again.username) == (parsed.client_id, parsed.username)


@settings(deadline=None)
@given(st.text(min_size=1, max_size=20), st.binary(max_size=300), st.none() | st.integers(1, 65535), st.booleans())
def test_a_publish_that_we_build_reads_back(topic: str, payload: bytes, packet_id: int | None, retain: bool) -> None:
    packet = build_publish(topic, payload, packet_id=packet_id, retain=retain)
    (same,) = PacketSplitter().feed(packet)
    assert same == packet
    cursor = Cursor(packet)
    if "\0" in topic:
        return
    assert cursor.text() == topic
    if packet_id is not None:
        assert cursor.number() == packet_id
    assert cursor.take(cursor.left) == payload
    assert packet[0] & 1 == retain


@settings(deadline=None)
@given(st.integers(0, 2**28 - 1))
def test_any_remaining_length_reads_back(length: int) -> None:
    encoded = remaining_length(length)
    value = sum((byte & 0x7F) << 7 * position for position, byte in enumerate(encoded))
    assert value == length
    assert len(encoded) <= 4
