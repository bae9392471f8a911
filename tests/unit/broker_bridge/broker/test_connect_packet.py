from __future__ import annotations

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from edge_mqtt.broker_bridge.broker.connect_packet import DEFAULT_KEEP_ALIVE_S, parse_connect, without_keep_alive
from edge_mqtt.broker_bridge.broker.packets import PacketError, PacketSplitter, PacketTooLarge, remaining_length


class Capture:
    """A socket that keeps what paho sends."""

    def __init__(self) -> None:
        self.sent = bytearray()

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def setblocking(self, _flag: bool) -> None:
        pass

    def close(self) -> None:
        pass


class PahoWithoutNetwork(Client):
    capture: Capture

    def _create_socket(self) -> Capture:  # type: ignore[override]  # enough of a socket for one packet
        return self.capture


def packet_of_paho(*, keep_alive_s: int = 60, will: bool = False, password: str | None = None) -> bytes:
    client = PahoWithoutNetwork(CallbackAPIVersion.VERSION2, client_id="worker:lab-3")
    client.capture = Capture()
    client.username_pw_set("incarnation-1", password)
    if will:
        client.will_set("edge/v1/workers/lab-3", b"\x00offline", qos=1, retain=True)
    client.connect("nowhere", keepalive=keep_alive_s)
    return bytes(client.capture.sent)


def build(body: bytes, first: int = 0x10) -> bytes:
    return bytes((first,)) + remaining_length(len(body)) + body


HEAD = b"\x00\x04MQTT\x04"


def test_what_paho_sends_is_understood() -> None:
    plain = parse_connect(packet_of_paho())
    assert (plain.client_id, plain.username, plain.keep_alive_s) == ("worker:lab-3", "incarnation-1", 60)
    assert plain.clean_session
    assert plain.protocol_level == 4
    assert plain.will_topic is None
    full = parse_connect(packet_of_paho(will=True, password="x"))
    assert full.will_topic == "edge/v1/workers/lab-3"
    assert full.username == "incarnation-1"


def test_the_keep_alive_can_be_taken_out_and_nothing_else_changes() -> None:
    packet = packet_of_paho(keep_alive_s=300, will=True)
    parsed = parse_connect(packet)
    assert parsed.keep_alive_s == 300
    changed = without_keep_alive(packet, parsed)
    assert len(changed) == len(packet)
    again = parse_connect(changed)
    assert again.keep_alive_s == DEFAULT_KEEP_ALIVE_S
    assert (again.client_id, again.username, again.will_topic) == (
        parsed.client_id,
        parsed.username,
        parsed.will_topic,
    )


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (build(b"", 0x30), "not CONNECT"),
        (build(HEAD, 0x11), "not CONNECT"),
        (build(b""), "longer than its packet"),
        (build(b"\x00\x04HTTP\x04\x02\x00\x3c\x00\x01a"), "name is not MQTT"),
        (build(HEAD + b"\x03\x00\x3c\x00\x01a"), "reserved flag"),
        (build(HEAD + b"\x1e\x00\x3c\x00\x01a"), "QoS"),
        (build(HEAD + b"\x22\x00\x3c\x00\x01a"), "no will"),
        (build(HEAD + b"\x42\x00\x3c\x00\x01a\x00\x00"), "password"),
        (build(HEAD + b"\x02\x00\x3c\x00\x05a"), "longer than its packet"),
        (build(HEAD + b"\x02\x00\x3c\x00\x02\xff\xfe"), "not UTF-8"),
        (build(HEAD + b"\x02\x00\x3c\x00\x01\x00"), "null"),
        (build(HEAD + b"\x02\x00\x3c\x00\x01ab"), "bytes follow"),
    ],
)
def test_a_malformed_connect_is_refused(packet: bytes, reason: str) -> None:
    with pytest.raises(PacketError, match=reason):
        parse_connect(packet)


@pytest.mark.parametrize(("name", "level"), [(b"MQTT", 5), (b"MQTT", 3), (b"MQIsdp", 3)])
def test_another_version_is_told_by_its_level(name: bytes, level: int) -> None:
    packet = build(len(name).to_bytes(2) + name + bytes((level,)) + b"\xff\xff whatever follows")
    assert parse_connect(packet).protocol_level == level


def test_the_splitter_cuts_a_stream_wherever_it_is_broken() -> None:
    packets = [build(bytes(size), 0x30) for size in (0, 1, 127, 128, 16383, 16384, 50_000)]
    stream = b"".join(packets)
    for step in (1, 2, 3, 1000, len(stream)):
        splitter = PacketSplitter()
        cut = [p for start in range(0, len(stream), step) for p in splitter.feed(stream[start : start + step])]
        assert cut == packets


def test_the_splitter_refuses_a_large_packet_by_its_header_alone() -> None:
    splitter = PacketSplitter(limit=1000)
    assert list(splitter.feed(build(bytes(997), 0x30))) == [build(bytes(997), 0x30)]
    with pytest.raises(PacketTooLarge, match="998 bytes is over the limit of 1000"):
        list(splitter.feed(build(bytes(998), 0x30)[:3]))
    with pytest.raises(PacketError, match="remaining length"):
        list(PacketSplitter().feed(b"\x30\xff\xff\xff\xff"))
