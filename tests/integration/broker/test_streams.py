"""However bytes are cut and mixed on their way, everybody's packets arrive whole, in order and unmixed."""

from __future__ import annotations

import gc
import hashlib
import random
import ssl
import threading
from asyncio import sslproto
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from edge_mqtt.broker_bridge.broker.asyncio_internals import TLS_READ_BYTES
from edge_mqtt.broker_bridge.broker.packets import build_publish
from edge_mqtt.broker_bridge.broker.tls_connection import MAX_EARLY_BYTES
from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import client_context
from tests.support.scenario_broker import (
    ROGUE,
    ROGUE_NAME,
    TOPICS,
    BrokerThread,
    RawClient,
    Recorder,
    connect_packet,
    packet,
    subscribe_packet,
)

CONTROL = TOPICS.control(ROGUE_NAME)
RESULTS = TOPICS.results(ROGUE_NAME)
CONNACK = packet(2, 0, b"\0\0")
CROWD_NAMES = [WorkerName(f"lab-{number}") for number in range(12)]
CROWD = [Identity(Role.WORKER, name) for name in CROWD_NAMES]
#: Bytes of the largest payload in these tests: a packet has room for it and its topic.
LARGE = 250_000
#: Bytes each way of what is large for a connection.
MUCH = 20 * 1024 * 1024


class Centre:
    """A broker and the program around it."""

    def __init__(self, directory: Path) -> None:
        self.thread = BrokerThread(directory, (ROGUE, *CROWD))
        self.transport = InProcessTransport(self.thread.broker.router, TOPICS.for_bridge())
        self.heard = Recorder()
        self.transport.start(self.heard)

    def context(self, identity: Identity) -> ssl.SSLContext:
        return client_context(load_credentials(self.thread.store.folder(identity)))

    def raw(self, identity: Identity) -> RawClient:
        return RawClient(
            connect(self.thread.url, ssl=self.context(identity), subprotocols=[Subprotocol("mqtt")], close_timeout=1)
        )

    def heard_on(self, topic: str) -> list[bytes]:
        return [payload for heard, payload in list(self.heard.packets) if heard == topic]

    def wait_for(self, topic: str, count: int) -> list[bytes]:
        self.heard.wait(lambda: len(self.heard_on(topic)) >= count)
        return self.heard_on(topic)

    def forget(self) -> None:
        self.heard.packets.clear()

    def close(self) -> None:
        self.transport.stop()
        self.thread.close()


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Centre]:
    made = Centre(tmp_path_factory.mktemp("centre"))
    yield made
    made.close()


@pytest.fixture
def rogue(centre: Centre) -> Iterator[RawClient]:
    centre.forget()
    with centre.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id) == 0
        yield client


def publish(payload: bytes, packet_id: int | None = None) -> bytes:
    return build_publish(RESULTS, payload, packet_id=packet_id, retain=False)


# ---------------------------------------------------------------- one connection

CONVERSATION = subscribe_packet(CONTROL) + publish(b"one", 5) + packet(12, 0, b"") + publish(b"two" * 60, 6)
ANSWERS = [packet(9, 0, b"\0\1\1"), packet(4, 0, b"\0\5"), packet(13, 0, b""), packet(4, 0, b"\0\6")]


def expect_answers(centre: Centre, client: RawClient) -> None:
    assert [client.packet() for _ in ANSWERS] == ANSWERS
    assert centre.wait_for(RESULTS, 2) == [b"one", b"two" * 60]


def test_several_packets_in_one_message_are_answered_in_order(centre: Centre, rogue: RawClient) -> None:
    rogue.send(CONVERSATION)
    expect_answers(centre, rogue)


def test_a_message_of_one_byte_each_makes_the_same_packets(centre: Centre, rogue: RawClient) -> None:
    for byte in CONVERSATION:
        rogue.send(bytes((byte,)))
    expect_answers(centre, rogue)


def test_a_message_in_fragments_of_one_byte_makes_the_same_packets(centre: Centre, rogue: RawClient) -> None:
    rogue.websocket.send(bytes((byte,)) for byte in CONVERSATION)
    expect_answers(centre, rogue)


def test_wherever_a_connection_is_cut_in_two_it_goes_on_the_same(centre: Centre) -> None:
    whole = connect_packet(ROGUE.client_id) + CONVERSATION
    for cut in range(len(whole)):
        centre.forget()
        with centre.raw(ROGUE) as client:
            client.send(whole[:cut])
            client.send(whole[cut:])
            assert client.packet() == CONNACK
            expect_answers(centre, client)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=400), min_size=1, max_size=12), st.lists(st.integers(1, 300), min_size=1))
def test_however_a_stream_is_cut_its_messages_arrive_in_order(
    centre: Centre, rogue: RawClient, payloads: list[bytes], sizes: list[int]
) -> None:
    centre.forget()
    stream = b"".join(publish(payload, number) for number, payload in enumerate(payloads, start=1))
    position = turn = 0
    while position < len(stream):
        size = sizes[turn % len(sizes)]
        rogue.send(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert [rogue.packet() for _ in payloads] == [packet(4, 0, n.to_bytes(2)) for n in range(1, len(payloads) + 1)]
    assert centre.wait_for(RESULTS, len(payloads)) == payloads


def test_a_subscription_and_a_message_behind_it_in_one_frame_are_both_served(centre: Centre) -> None:
    presence = TOPICS.presence(CROWD_NAMES[0])
    operator_like = build_publish(presence, b"here", packet_id=3, retain=True)
    centre.forget()
    with centre.raw(CROWD[0]) as client:
        assert client.connect(CROWD[0].client_id) == 0
        client.send(subscribe_packet(TOPICS.control(CROWD_NAMES[0])) + operator_like)
        assert client.packet() == packet(9, 0, b"\0\1\1")
        assert client.packet() == packet(4, 0, b"\0\3")
        assert centre.wait_for(presence, 1) == [b"here"]
        assert centre.transport.publish(TOPICS.control(CROWD_NAMES[0]), b"heard", qos=0)
        assert client.message()[1] == b"heard"


def test_much_that_follows_connect_at_once_is_worked_off_when_the_session_is_there(centre: Centre) -> None:
    centre.forget()
    payloads = [bytes((number,)) * 10_000 for number in range(100)]
    assert sum(map(len, payloads)) > 10 * MAX_EARLY_BYTES
    with centre.raw(ROGUE) as client:
        client.send(connect_packet(ROGUE.client_id) + publish(b"first"))
        for payload in payloads:
            client.send(publish(payload))
        client.send(packet(12, 0, b""))
        assert client.packet() == CONNACK
        assert client.packet() == packet(13, 0, b"")
    assert centre.wait_for(RESULTS, 101) == [b"first", *payloads]


def test_what_came_before_a_goodbye_is_worked_off_however_much_it_is(centre: Centre) -> None:
    centre.forget()
    payloads = [b"%d" % number for number in range(5000)]
    presence = TOPICS.presence(ROGUE_NAME)
    with centre.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id, will_topic=presence) == 0
        client.send(b"".join(map(publish, payloads)) + packet(14, 0, b""))
        client.websocket.close()
    assert centre.wait_for(RESULTS, 5000) == payloads
    with centre.raw(ROGUE) as client:
        # The name is free, so the session before has ended: without a will.
        assert client.connect(ROGUE.client_id) == 0
    assert centre.heard_on(presence) == []


# ---------------------------------------------------------------- much, and many at once


def test_20_mib_go_through_each_way_at_once(centre: Centre, rogue: RawClient) -> None:
    chooser = random.Random(1)
    up = [chooser.randbytes(LARGE) for _ in range(MUCH // LARGE)]
    down = [chooser.randbytes(LARGE) for _ in range(MUCH // LARGE)]
    assert rogue.subscribe(CONTROL) == [1]
    got: list[bytes] = []

    def receive() -> None:
        got.extend(rogue.message()[1] for _ in down)

    receiver = threading.Thread(target=receive)
    receiver.start()
    for sent_up, sent_down in zip(up, down, strict=True):
        assert centre.transport.publish(CONTROL, sent_down, qos=0)
        rogue.send(publish(sent_up))
    receiver.join(60)
    assert digest(got) == digest(down)
    assert digest(centre.wait_for(RESULTS, len(up))) == digest(up)


def digest(payloads: list[bytes]) -> tuple[int, str]:
    return len(payloads), hashlib.sha256(b"".join(payloads)).hexdigest()


def exchange_much(centre: Centre, me: Identity, seed: int) -> tuple[bool, bool]:
    """Send and receive messages of random sizes; tell whether they were the same at the other end, each way."""
    name = WorkerName(me.name)
    chooser = random.Random(seed)
    sizes = [chooser.choice((1, 100, TLS_READ_BYTES, TLS_READ_BYTES + 1, LARGE)) for _ in range(30)]
    payloads = [name.encode() + chooser.randbytes(size) for size in sizes]
    with centre.raw(me) as client:
        assert client.connect(me.client_id) == 0
        assert client.subscribe(TOPICS.control(name)) == [1]
        down = []
        for payload in payloads:
            client.send(build_publish(TOPICS.results(name), payload, packet_id=None, retain=False))
            assert centre.transport.publish(TOPICS.control(name), payload[::-1], qos=0)
            down.append(client.message()[1])
    up = centre.wait_for(TOPICS.results(name), len(payloads))
    return up == payloads, down == [payload[::-1] for payload in payloads]


def test_many_who_send_and_receive_at_once_each_get_their_own_bytes(centre: Centre) -> None:
    centre.forget()
    with ThreadPoolExecutor(len(CROWD)) as threads:
        results = list(threads.map(exchange_much, [centre] * len(CROWD), CROWD, range(len(CROWD))))
    assert results == [(True, True)] * len(CROWD)


def test_brokers_in_two_threads_of_one_process_keep_their_clients_bytes_apart(centre: Centre, tmp_path: Path) -> None:
    centre.forget()
    other = Centre(tmp_path)
    both = [centre if number % 2 else other for number in range(len(CROWD))]
    with ThreadPoolExecutor(len(CROWD)) as threads:
        results = list(threads.map(exchange_much, both, CROWD, range(len(CROWD))))
    other.close()
    assert results == [(True, True)] * len(CROWD)


def test_connections_have_one_read_buffer_between_them_and_others_of_the_process_have_their_own(
    centre: Centre,
) -> None:
    usual = sslproto.SSLProtocol.max_size
    with centre.raw(CROWD[0]) as first, centre.raw(CROWD[1]) as second:
        assert first.connect(CROWD[0].client_id) == second.connect(CROWD[1].client_id) == 0
        gc.collect()
        # By the type itself: what another test has loaded may import a module when it is asked for its class.
        ours = [thing for thing in gc.get_objects() if issubclass(type(thing), sslproto.SSLProtocol)]
        buffers = [layer.get_buffer(-1).obj for layer in ours]
        assert len(ours) == 2
        assert buffers[0] is buffers[1]
        assert len(memoryview(buffers[0])) == TLS_READ_BYTES
        rests = [layer._ssl_buffer for layer in ours]
        assert [len(rest) for rest in rests] == [0, 0]
    assert sslproto.SSLProtocol.max_size == usual == 256 * 1024
