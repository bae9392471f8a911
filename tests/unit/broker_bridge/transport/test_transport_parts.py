"""The parts under the transports: URLs, proxies, WebSocket frames, and what the fake broker can do to a link."""

from __future__ import annotations

import ssl
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.uri import parse_uri

from edge_mqtt.broker_bridge.protocol.messages import Presence, WorkerState
from edge_mqtt.broker_bridge.transport.endpoint import Endpoint, InvalidUrl, Proxy, parse_url, proxy_for
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason, Will
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.broker_bridge.transport.websocket import MAX_MESSAGE_BYTES, WebSocket


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("wss://bridge.example", Endpoint("bridge.example", 443, "/mqtt")),
        ("wss://bridge.example:8443/", Endpoint("bridge.example", 8443, "/mqtt")),
        ("wss://[::1]:9/deep/path", Endpoint("::1", 9, "/deep/path")),
    ],
)
def test_urls_are_understood(url: str, endpoint: Endpoint) -> None:
    assert parse_url(url) == endpoint


@pytest.mark.parametrize(
    "url", ["", "bridge", "ws://bridge/mqtt", "https://bridge", "wss://", "wss://h:port/", "wss://h:0/"]
)
def test_other_urls_are_refused_in_one_line(url: str) -> None:
    with pytest.raises(InvalidUrl) as caught:
        parse_url(url)
    assert "\n" not in str(caught.value)


def test_the_proxy_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    assert proxy_for("bridge") == Proxy(host="proxy.example", port=3128, username=None, password=None)
    monkeypatch.setenv("NO_PROXY", "bridge,other")
    assert proxy_for("bridge") is None
    monkeypatch.setenv("HTTPS_PROXY", "https://user:secret@proxy.example")
    with pytest.raises(InvalidUrl) as caught:
        proxy_for("elsewhere")
    assert "secret" not in str(caught.value)


class Wire:
    """A TLS socket with room for a few bytes at a time."""

    def __init__(self, room: int = 10_000_000) -> None:
        self.incoming = bytearray()
        self.outgoing = bytearray()
        self.room = room
        self.open = True

    def recv(self, count: int) -> bytes:
        if not self.incoming and self.open:
            raise ssl.SSLWantReadError
        data = bytes(self.incoming[:count])
        del self.incoming[:count]
        return data

    def send(self, data: bytearray) -> int:
        if not self.room:
            raise ssl.SSLWantWriteError
        taken = min(self.room, len(data))
        self.room -= taken
        self.outgoing += data[:taken]
        return taken

    def pending(self) -> int:
        return 0


def on(wire: Wire, early: bytes = b"") -> WebSocket:
    protocol = ClientProtocol(parse_uri("wss://bridge.example"), state=OPEN, max_size=MAX_MESSAGE_BYTES)
    protocol.receive_data(early)
    return WebSocket(cast("ssl.SSLSocket", wire), protocol)


def frames(wire: Wire) -> list[Frame]:
    """Return what a server by the book makes of what was sent."""
    server = Protocol(SERVER, max_size=None)
    server.receive_data(bytes(wire.outgoing))
    return cast("list[Any]", server.events_received())


def frame(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 125, 126, 127, 65535, 65536, 130_000]), max_size=4), st.integers(500, 70_000))
def test_packets_reach_a_server_whole_however_little_room_there_is(sizes: list[int], room: int) -> None:
    wire = Wire(room)
    websocket = on(wire)
    packets = [bytes([size % 251 + 1]) * size for size in sizes]
    for packet in packets:
        while True:
            try:
                assert websocket.send(packet) == len(packet)
                break
            except BlockingIOError:
                wire.room += room
    while not websocket.flush():
        wire.room += room
    assert [bytes(received.data) for received in frames(wire)] == packets


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 50), st.booleans())
def test_messages_are_read_however_they_are_cut(messages: list[bytes], step: int, split: bool) -> None:
    stream = b""
    for message in messages:
        if split:
            stream += frame(Opcode.BINARY, message[:7], fin=False) + frame(Opcode.PING, b"are you there")
            stream += frame(Opcode.CONT, message[7:])
        else:
            stream += frame(Opcode.BINARY, message)
    wire = Wire()
    websocket = on(wire, stream[:step])
    read = bytearray()
    for start in range(step, len(stream) + step, step):
        wire.incoming += stream[start : start + step]
        try:
            while True:
                read += websocket.recv(100)
        except BlockingIOError:
            assert not websocket.pending
    assert bytes(read) == b"".join(messages)
    pongs = [(received.opcode, bytes(received.data)) for received in frames(wire)]
    assert pongs == ([(Opcode.PONG, b"are you there")] * len(messages) if split else [])


@pytest.mark.parametrize("last", [frame(Opcode.CLOSE, b"\x03\xe9bye"), frame(Opcode.TEXT, b"x" * 200), b""])
def test_what_came_before_the_end_is_still_read(last: bytes) -> None:
    wire = Wire()
    websocket = on(wire, frame(Opcode.BINARY, b"last words") + last)
    wire.open = False
    assert websocket.pending
    assert websocket.recv(100) == b"last words"
    assert websocket.recv(100) == b""
    with pytest.raises(BrokenPipeError):
        websocket.send(b"too late")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (frame(Opcode.CLOSE, b"\x03\xe9bye"), CloseCode.GOING_AWAY),
        (frame(Opcode.TEXT, b"x") + frame(Opcode.BINARY, b"unheard"), CloseCode.UNSUPPORTED_DATA),
        (frame(Opcode.TEXT, b"x") + frame(Opcode.CLOSE, b"\x03\xe9"), CloseCode.GOING_AWAY),
        (frame(Opcode.BINARY, bytes(MAX_MESSAGE_BYTES + 1))[:100], CloseCode.MESSAGE_TOO_BIG),
        (Frame(Opcode.BINARY, b"masked").serialize(mask=True), CloseCode.PROTOCOL_ERROR),
    ],
    ids=["goodbye", "text", "text and goodbye", "too large", "masked"],
)
def test_a_server_that_ends_it_or_breaks_the_rules_is_told_why_and_left(sent: bytes, code: CloseCode) -> None:
    wire = Wire()
    websocket = on(wire)
    wire.incoming += sent
    assert websocket.recv(100) == b""
    (last,) = frames(wire)
    assert Close.parse(bytes(last.data)).code == code


class Recorder:
    def __init__(self) -> None:
        self.told: list[object] = []

    def connected(self) -> None:
        self.told.append("connected")

    def disconnected(self, reason: str) -> None:
        self.told.append(reason)

    def refused(self, refusal: Refusal) -> None:
        self.told.append(refusal)

    def received(self, topic: str, payload: bytes) -> None:
        self.told.append((topic, payload))


def offline(connection: int) -> Will:
    return Will(topic="w", message=Presence(incarnation="i", connection=connection, state=WorkerState.OFFLINE))


def test_the_fake_broker_loses_partitions_stops_and_refuses_on_demand() -> None:
    broker, heard, sender = MemoryBroker(), Recorder(), Recorder()
    receiver = MemoryTransport(broker, "r", ["a/#", "w"])
    transport = MemoryTransport(broker, "s", [], offline)
    receiver.start(heard)
    transport.start(sender)
    broker.lose(lambda packet: packet.payload == b"unlucky")
    assert transport.publish("a/1", b"unlucky", qos=1)
    assert transport.publish("a/1", b"lucky", qos=1)
    broker.partition("s")
    assert transport.publish("a/2", b"into the void", qos=1)
    broker.heal("s")
    assert transport.publish("a/3", b"healed", qos=1, retain=True)
    assert broker.retained("a/3") == b"healed"
    assert heard.told == ["connected", ("a/1", b"lucky"), ("a/3", b"healed")]
    broker.stop()
    assert not transport.publish("a/4", b"", qos=1)
    assert sender.told == ["connected", "the broker is gone"]
    assert len(heard.told) == 4
    broker.start()
    assert broker.retained("a/3") is None
    assert (transport.connection, receiver.connection) == (2, 2)
    refusal = Refusal(reason=RefusalReason.NAME_IN_USE, message="no")
    broker.refuse("s", refusal)
    broker.cut("s")
    broker.restore("s")
    assert sender.told[-2:] == ["the link was cut", refusal]
    assert [packet.topic for packet in broker.published] == ["a/1", "a/3", "w"]
