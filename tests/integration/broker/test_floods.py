"""Clients that send without end or never read: others are served, memory has its bounds, nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from edge_mqtt.broker_bridge.broker.amqtt_session import AmqttSessions
from edge_mqtt.broker_bridge.broker.client_reader import PACKETS_A_TURN, ClientReader
from edge_mqtt.broker_bridge.broker.client_writer import ClientWriter
from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.broker_bridge.broker.packets import build_publish
from edge_mqtt.broker_bridge.broker.router import TopicRouter
from edge_mqtt.broker_bridge.broker.tls_connection import TlsConnection
from tests.support.scenario_broker import (
    OPERATOR,
    ROGUE,
    ROGUE_NAME,
    TOPICS,
    RawClient,
    Site,
    connect_packet,
    packet,
    subscribe_packet,
)

CONTROL = TOPICS.control(ROGUE_NAME)
RESULTS = TOPICS.results(ROGUE_NAME)
PRESENCE = TOPICS.presence(ROGUE_NAME)
PING = packet(12, 0, b"")
#: Sending more than this without being cut off is an endless flood, in bytes.
ENDLESS = 64 * 1024 * 1024


class DeafClient:
    """Sends what it is told and reads nothing behind the handshake."""

    def __init__(self, site: Site) -> None:
        url = parse_uri(site.thread.url)
        self.protocol = ClientProtocol(url, subprotocols=[Subprotocol("mqtt")])
        plain = socket.create_connection(("127.0.0.1", url.port))
        plain.settimeout(15)
        self._socket = site.context(ROGUE).wrap_socket(plain, server_hostname="localhost")
        self.protocol.send_request(self.protocol.connect())
        self._flush()
        while not self.protocol.events_received():
            self.protocol.receive_data(self._socket.recv(4096))
        self.protocol.send_binary(connect_packet(ROGUE.client_id, will_topic=PRESENCE))
        self._flush()

    def _flush(self) -> None:
        self._socket.sendall(b"".join(self.protocol.data_to_send()))

    def message(self, data: bytes) -> None:
        self.protocol.send_binary(data)
        self._flush()

    def websocket_pings(self, count: int) -> None:
        for _ in range(count):
            self.protocol.send_ping(bytes(125))
        self._flush()

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def deaf(site: Site) -> Iterator[DeafClient]:
    client = DeafClient(site)
    yield client
    client.close()


class Turns:
    """Records what the broker's loop did, in order: a flooder's messages and its own rounds."""

    def __init__(self, site: Site) -> None:
        self.seen: list[int] = [0]
        self._ended = False
        site.broker.router.subscribe([RESULTS], lambda _topic, _payload: self._count())
        self._loop = site.thread.loop
        self._loop.call_soon_threadsafe(self._round)

    def _count(self) -> None:
        self.seen[-1] += 1

    def _round(self) -> None:
        if self.seen[-1]:
            self.seen.append(0)
        if not self._ended:
            self._loop.call_soon(self._round)

    def end(self) -> None:
        self._ended = True


def test_others_have_their_turn_between_the_packets_of_one_large_message(site: Site) -> None:
    flood = [build_publish(RESULTS, b"%d" % number, packet_id=None, retain=False) for number in range(10_000)]
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id) == 0
        turns = Turns(site)
        client.send(b"".join(flood))
        site.heard.wait_packets(len(flood))
        turns.end()
    assert [payload for _, payload in site.heard.packets] == [b"%d" % number for number in range(10_000)]
    assert max(turns.seen) <= PACKETS_A_TURN
    site.expect_undisturbed_victim()


def test_what_came_before_the_end_of_a_connection_is_worked_off(site: Site, deaf: DeafClient) -> None:
    def break_off(_topic: str, payload: bytes) -> None:
        if payload == b"0":
            (writer,) = writers_of(site)
            writer._connection.transport.abort()

    site.broker.router.subscribe([RESULTS], break_off)
    flood = [build_publish(RESULTS, b"%d" % number, packet_id=None, retain=False) for number in range(5000)]
    deaf.message(b"".join(flood))
    site.heard.wait(lambda: (PRESENCE, b"the will") in site.heard.packets)
    assert site.heard.packets[:-1] == [(RESULTS, b"%d" % number) for number in range(5000)]


def test_a_client_that_is_cut_off_in_the_middle_of_its_flood_gets_nothing_more_done(site: Site) -> None:
    good = [build_publish(RESULTS, b"%d" % number, packet_id=None, retain=False) for number in range(1000)]
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id, will_topic=PRESENCE) == 0
        with pytest.raises(ConnectionClosed):  # noqa: PT012 - sending may be the one to notice
            client.send(b"".join(good) + packet(15, 0, b"") + b"".join(good))
            client.packet()
    site.heard.wait(lambda: (PRESENCE, b"the will") in site.heard.packets)
    assert [payload for topic, payload in site.heard.packets if topic == RESULTS] == [b"%d" % n for n in range(1000)]
    site.expect_one_warning("worker:rogue dropped", "type 15")


@pytest.mark.parametrize("limits", [Limits(backlog_bytes=1024 * 1024)])
@pytest.mark.parametrize("asking", [PING, build_publish(RESULTS, b"", packet_id=1, retain=False)])
def test_who_does_not_read_the_answers_to_its_packets_is_dropped(site: Site, deaf: DeafClient, asking: bytes) -> None:
    deaf.message(subscribe_packet(CONTROL))
    wait_for(lambda: is_subscribed(site))
    # The system's own buffers would take millions of answers.
    while not site.warnings():
        assert site.centre.publish(CONTROL, bytes(200_000), qos=0)
        site.expect_undisturbed_victim()
    many = asking * (64 * 1024 // len(asking))
    with pytest.raises(OSError, match=r"."):  # noqa: PT012 - the flood ends when the connection does
        for _ in range(ENDLESS // len(many)):
            deaf.message(many)
    assert "does not read the answers" in site.warnings()[-1]
    site.heard.wait(lambda: (PRESENCE, b"the will") in site.heard.packets)
    site.expect_undisturbed_victim()


@pytest.mark.parametrize("limits", [Limits(unread_bytes=1024 * 1024)])
def test_who_does_not_read_the_answers_to_websocket_pings_is_dropped(site: Site, deaf: DeafClient) -> None:
    with pytest.raises(OSError, match=r"."):  # noqa: PT012 - the flood ends when the connection does
        for _ in range(ENDLESS // 125_000):
            deaf.websocket_pings(1000)
    site.expect_one_warning("does not read the answers")
    site.expect_undisturbed_victim()


def test_what_waits_for_a_slow_reader_goes_out_whole_and_in_order_once_it_reads(site: Site) -> None:
    payloads = [bytes((number,)) * 200_000 for number in range(100)]
    with site.raw(OPERATOR) as slow:
        assert slow.connect(OPERATOR.client_id) == 0
        own = TOPICS.admin_response(OPERATOR)
        assert slow.subscribe(own) == [1]
        for payload in payloads:
            assert site.centre.publish(own, payload, qos=1)
        site.expect_undisturbed_victim()
        assert [slow.message()[1] for _ in payloads] == payloads
    assert site.warnings() == []


@pytest.mark.parametrize("timing", [Timing(last_words_s=1000.0, session_end_s=1000.0)])
def test_a_connection_that_ends_while_its_last_words_wait_frees_its_name_at_once(site: Site) -> None:
    deaf = DeafClient(site)
    deaf.message(PING)
    wait_until_named(site)
    (writer,) = writers_of(site)
    for _ in range(100):
        site.thread.loop.call_soon_threadsafe(writer.write, bytes(200_000))
    deaf.message(packet(14, 0, b""))
    wait_for(lambda: writer._closing is not None)
    deaf.close()
    wait_for(lambda: ROGUE.client_id not in live(site))
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id, incarnation="another") == 0


@pytest.mark.parametrize("timing", [Timing(session_end_s=0.2)])
def test_a_session_that_hangs_is_cancelled_and_its_name_is_free(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = sessions_of(site)

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as hanging:
        hanging.setattr(sessions._broker, "_handle_disconnect", hang)
        with site.raw(ROGUE) as client:
            assert client.connect(ROGUE.client_id) == 0
            assert client.subscribe(CONTROL) == [1]
        wait_for(lambda: ROGUE.client_id not in live(site))
    site.expect_one_warning("a session outlives its connection")
    assert ROGUE.client_id not in sessions._broker._sessions
    with site.raw(ROGUE) as client:
        assert client.connect(ROGUE.client_id, incarnation="another") == 0
        assert client.subscribe(CONTROL) == [1]


LEAVERS: dict[str, Callable[[RawClient], None]] = {
    "goodbye": lambda client: client.send(packet(14, 0, b"")),
    "drop": RawClient.drop,
    "garbage": lambda client: client.send(b"\xff" * 64),
    "close": lambda client: client.websocket.close(),
}


@pytest.mark.parametrize("name", LEAVERS)
def test_a_connection_leaves_nothing_behind(site: Site, name: str) -> None:
    before = counted()
    for _ in range(5):
        with site.raw(ROGUE) as client:
            assert client.connect(ROGUE.client_id) == 0
            assert client.subscribe(CONTROL) == [1]
            LEAVERS[name](client)
            with pytest.raises(ConnectionClosed):
                client.packet()
        wait_for(lambda: ROGUE.client_id not in live(site))
    wait_for(lambda: counted() == before)
    # The victim's and the centre's.
    assert len(router_of(site)._index) == 1 + len(TOPICS.for_bridge())
    assert len(sessions_of(site)._broker._sessions) == 1


KINDS = (Session, BrokerProtocolHandler, ClientReader, ClientWriter, TlsConnection)


def counted() -> dict[str, int]:
    """Count what there is of a connection's objects."""
    gc.collect()
    kinds = [type(thing) for thing in gc.get_objects()]
    return {kind.__name__: kinds.count(kind) for kind in KINDS}


def live(site: Site) -> set[str]:
    assert site.broker._listener is not None
    return set(site.broker._listener._live)


def router_of(site: Site) -> TopicRouter:
    assert site.broker._topic_router is not None
    return site.broker._topic_router


def sessions_of(site: Site) -> AmqttSessions:
    assert site.broker._sessions is not None
    return site.broker._sessions


def is_subscribed(site: Site) -> bool:
    return CONTROL in router_of(site)._index._exact


def wait_until_named(site: Site) -> None:
    wait_for(lambda: bool(writers_of(site)))


def writers_of(site: Site) -> list[ClientWriter]:
    sessions = list(sessions_of(site)._broker._sessions.items())
    return [handler.writer._client for name, (_, handler) in sessions if name == ROGUE.client_id]


def wait_for(condition: object) -> None:
    """Wait for something that nobody tells."""
    assert callable(condition)
    pause = threading.Event()
    for _ in range(1500):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it does not come")
