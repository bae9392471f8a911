"""Connections that die without a word, and handshakes that hang or break: noticed in time, on both sides."""

from __future__ import annotations

import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from paho.mqtt.enums import MQTTErrorCode

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, WorkerName
from edge_mqtt.broker_bridge.transport import paho_connection
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.broker_bridge.transport.interface import RefusalReason
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.broker_bridge.transport.timing import Timing
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import client_context, server_context
from tests.support.bad_link import BadLink
from tests.support.fixed_context import FixedContext
from tests.support.scenario_broker import TOPICS, BrokerThread, Recorder

KEEP_ALIVE_S = 3
#: Seconds in which a silent loss is noticed, and what a busy machine may add.
NOTICED_S = 1.5 * KEEP_ALIVE_S
BUSY_S = 1.0
#: Seconds between messages of those who send all the time.
RHYTHM_S = 0.05
TRAFFIC = ("idle", "sends", "hears")
PARTIES = [Identity(role, f"{role}-{traffic}") for role in (Role.WORKER, Role.EXECUTOR) for traffic in TRAFFIC]


def inbox(me: Identity) -> str:
    """Return a topic that ``me`` reads."""
    return TOPICS.control(WorkerName(me.name)) if me.role is Role.WORKER else TOPICS.events(ExecutorName(me.name))


def outbox(me: Identity) -> str:
    """Return a topic that ``me`` may publish to."""
    return TOPICS.results(WorkerName(me.name)) if me.role is Role.WORKER else TOPICS.admin_request(me)


class Watched(Recorder):
    """Remembers when its connection was found to be dead."""

    def __init__(self) -> None:
        super().__init__()
        self.lost_at: float | None = None

    def disconnected(self, reason: str) -> None:
        self.lost_at = self.lost_at or time.monotonic()
        super().disconnected(reason)


class Fleet:
    """A worker and an executor of each kind of traffic, on one link."""

    def __init__(self, directory: Path) -> None:
        self.thread = BrokerThread(directory, PARTIES)
        self.link = BadLink(self.thread.broker.port)
        self.centre = InProcessTransport(self.thread.broker.router, TOPICS.for_bridge())
        self.heard = Recorder()
        self.centre.start(self.heard)
        self.watched = {me: Watched() for me in PARTIES}
        self.transports = {me: self.connect(me, self.watched[me]) for me in PARTIES}
        self._ended = threading.Event()
        self._talking = threading.Thread(target=self._talk, name="traffic")

    def connect(
        self,
        me: Identity,
        recorder: Recorder,
        keep_alive_s: int = KEEP_ALIVE_S,
        timing: Timing = Timing(),  # noqa: B008 - frozen
    ) -> PahoTransport:
        options = ConnectOptions(
            identity=me,
            incarnation="one",
            keep_alive_s=keep_alive_s,
            subscriptions=(inbox(me),),
            timing=timing,
        )
        context = client_context(load_credentials(self.thread.store.folder(me)))
        transport = PahoTransport(f"wss://localhost:{self.link.port}/mqtt", FixedContext(context), options)
        transport.start(recorder)
        return transport

    def connect_again(self, me: Identity, keep_alive_s: int) -> tuple[PahoTransport, Recorder]:
        """Connect in the place of ``me``'s first connection."""
        self.transports[me].stop()
        recorder = Recorder()
        self.transports[me] = self.connect(me, recorder, keep_alive_s)
        return self.transports[me], recorder

    def run(self) -> None:
        for recorder in self.watched.values():
            recorder.wait_event("connected")
        self._talking.start()
        for me in PARTIES:
            if me.name.endswith("sends"):
                self.heard.wait(partial(self._has_sent, outbox(me)))
            if me.name.endswith("hears"):
                self.watched[me].wait_packets(1)

    def _has_sent(self, topic: str) -> bool:
        return any(heard == topic for heard, _ in self.heard.packets)

    def _talk(self) -> None:
        while not self._ended.wait(RHYTHM_S):
            for me, transport in self.transports.items():
                if me.name.endswith("sends"):
                    transport.publish(outbox(me), b"up", qos=1)
                if me.name.endswith("hears"):
                    self.centre.publish(inbox(me), b"down", qos=1)

    def seen_by_the_broker(self) -> set[str]:
        listener = self.thread.broker._listener
        assert listener is not None
        return set(listener._live)

    def broker_noticed_at(self) -> float:
        """Wait until the broker has dropped everybody; return when."""
        deadline = time.monotonic() + 10 * KEEP_ALIVE_S
        while self.seen_by_the_broker():
            assert time.monotonic() < deadline, self.seen_by_the_broker()
            time.sleep(0.01)
        return time.monotonic()

    def close(self) -> None:
        self._ended.set()
        if self._talking.is_alive():
            self._talking.join()
        self.link.restore()
        for transport in self.transports.values():
            transport.stop()
        self.thread.close()
        self.link.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path / "certs")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("up", "down"), [(True, True), (True, False), (False, True)], ids=["both", "half open up", "half open down"]
)
def test_a_silent_loss_is_noticed_on_both_sides_within_one_and_a_half_keep_alives(
    fleet: Fleet, up: bool, down: bool
) -> None:
    fleet.run()
    fleet.link.blackhole(up=up, down=down)
    since = time.monotonic()
    broker_after = fleet.broker_noticed_at() - since
    for recorder in fleet.watched.values():
        recorder.wait_event("disconnected")
    after = {str(me): (recorder.lost_at or 0.0) - since for me, recorder in fleet.watched.items()}
    assert max(after.values()) < NOTICED_S + BUSY_S, after
    assert broker_after < NOTICED_S + BUSY_S
    fleet.link.restore()
    for recorder in fleet.watched.values():
        recorder.wait_event("connected", 2)


def test_no_connection_that_works_is_given_up_whatever_its_traffic(fleet: Fleet) -> None:
    fleet.run()
    fleet.link.delay_s = 0.1
    fleet.link.jitter_s = 0.1
    fleet._ended.wait(3 * KEEP_ALIVE_S)
    assert {tuple(recorder.events) for recorder in fleet.watched.values()} == {("connected",)}


def test_a_clock_that_jumps_disturbs_no_connection(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.run()
    real = time.time
    for jump_s in (86400.0, -86400.0):
        monkeypatch.setattr(time, "time", lambda jump_s=jump_s: real() + jump_s)
        fleet._ended.wait(2 * KEEP_ALIVE_S)
    assert {tuple(recorder.events) for recorder in fleet.watched.values()} == {("connected",)}


def test_another_program_gets_a_name_whose_owner_fell_silent(fleet: Fleet) -> None:
    me = PARTIES[0]
    fleet.run()
    fleet.link.blackhole()
    since = time.monotonic()
    options = ConnectOptions(identity=me, incarnation="two", keep_alive_s=KEEP_ALIVE_S, subscriptions=(inbox(me),))
    newcomer, recorder = fleet.thread.transport(me, options), Recorder()
    newcomer.start(recorder)
    recorder.wait_event("connected")
    # Its next attempt comes at the latest after as long again as it has been kept waiting.
    assert time.monotonic() - since < 2 * NOTICED_S + BUSY_S
    assert recorder.events == ["connected"]
    # The owner comes back too late and is told so.
    fleet.link.restore()
    fleet.watched[me].wait_event("refused")
    refusal = fleet.watched[me].refusal
    assert refusal is not None
    assert refusal.reason is RefusalReason.NAME_IN_USE
    assert recorder.events == ["connected"]
    newcomer.stop()


def test_a_slow_answer_of_many_seconds_is_no_silent_loss(fleet: Fleet) -> None:
    me = PARTIES[0]
    fleet.run()
    fleet.link.bytes_per_s = 50_000
    pieces = [bytes((number,)) * 100_000 for number in range(4)]
    for piece in pieces:
        assert fleet.centre.publish(inbox(me), piece, qos=1)
    # Eight seconds, several keep alives, in which every ping's answer waits behind the rest.
    assert [payload for _, payload in fleet.watched[me].wait_packets(4)] == pieces
    assert fleet.watched[me].events == ["connected"]


def test_one_packet_that_takes_many_keep_alives_is_no_silent_loss(fleet: Fleet) -> None:
    me = PARTIES[0]
    # The others' pings would wait behind it, too, on the one link, and have no part of a packet to show for it.
    for transport in fleet.transports.values():
        transport.stop()
    _, recorder = fleet.connect_again(me, KEEP_ALIVE_S)
    recorder.wait_event("connected")
    fleet.link.bytes_per_s = 20_000
    packet = bytes(4 * KEEP_ALIVE_S * 20_000)
    assert fleet.centre.publish(inbox(me), packet, qos=1)
    while not recorder.packets and recorder.events == ["connected"]:
        time.sleep(0.05)
    assert recorder.packets == [(inbox(me), packet)]
    assert recorder.events == ["connected"]


def test_an_idle_connection_sleeps_until_its_next_ping(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps: queue.SimpleQueue[int] = queue.SimpleQueue()

    class Poller:
        def __init__(self) -> None:
            self._poll = select.poll()
            self.register = self._poll.register

        def poll(self, timeout_ms: int) -> list[tuple[int, int]]:
            sleeps.put(timeout_ms)
            return self._poll.poll(timeout_ms)

    fake = SimpleNamespace(poll=Poller, POLLIN=select.POLLIN, POLLOUT=select.POLLOUT)
    monkeypatch.setattr(paho_connection, "select", fake)
    me = PARTIES[0]
    _, recorder = fleet.connect_again(me, keep_alive_s=600)
    recorder.wait_event("connected")
    while sleeps.get(timeout=10) < 590_000:
        pass


def test_a_connection_that_can_take_no_more_ends_at_once_not_at_its_next_ping(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = PARTIES[0]
    transport, recorder = fleet.connect_again(me, keep_alive_s=600)
    recorder.wait_event("connected")
    live = transport._live
    assert live is not None
    full = SimpleNamespace(rc=MQTTErrorCode.MQTT_ERR_QUEUE_SIZE)
    monkeypatch.setattr(live._client, "publish", lambda *_: full)
    assert not transport.publish(outbox(me), b"one too many", qos=1)
    recorder.wait_event("disconnected")


# ---------------------------------------------------------------- handshakes


@pytest.fixture
def timing() -> Timing:
    return Timing(first_wait_s=0.1, longest_wait_s=0.1)


@pytest.fixture
def newcomer(fleet: Fleet, timing: Timing) -> Iterator[Callable[[], Recorder]]:
    """Return what connects one more program, under the name of one that has left."""
    made: list[PahoTransport] = []

    def connect() -> Recorder:
        fleet.transports[PARTIES[0]].stop()
        recorder = Recorder()
        made.append(fleet.connect(PARTIES[0], recorder, 60, timing))
        return recorder

    yield connect
    for transport in made:
        transport.stop()


@pytest.mark.parametrize("timing", [Timing(connect_s=0.3, first_wait_s=0.1, longest_wait_s=0.1)])
def test_a_handshake_that_hangs_is_given_up_and_tried_again(
    fleet: Fleet, newcomer: Callable[[], Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    fleet.run()
    fleet.link.blackhole()
    recorder = newcomer()
    deadline = time.monotonic() + 10
    while "no answer in time" not in caplog.text:
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.01)
    fleet.link.restore()
    recorder.wait_event("connected")
    assert recorder.events == ["connected"]


def test_a_reset_at_any_point_of_the_handshake_leads_to_another_attempt(
    fleet: Fleet, newcomer: Callable[[], Recorder], caplog: pytest.LogCaptureFixture
) -> None:
    for transport in fleet.transports.values():
        transport.stop()
    recorder = newcomer()
    points = [(up, count) for up in (True, False) for count in (1, 100, 600, 1100)]
    for number, (up, count) in enumerate(points, 1):
        recorder.wait_event("connected", number)
        attempts = fleet.link.connections
        fleet.link.reset_after(count, up=up)
        fleet.link.reset()
        recorder.wait_event("connected", number + 1)
        assert fleet.link.connections >= attempts + 2
    assert "failed unexpectedly" not in caplog.text
    assert "Traceback" not in caplog.text


def test_an_upgrade_answer_in_drips_is_given_up_and_tried_again(fleet: Fleet) -> None:
    context = server_context(load_credentials(fleet.thread.store.directory / "bridge"))
    me = PARTIES[0]
    fleet.transports[me].stop()
    timing = Timing(connect_s=0.5)
    options = ConnectOptions(identity=me, incarnation="one", keep_alive_s=60, subscriptions=(), timing=timing)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"wss://localhost:{server.getsockname()[1]}/mqtt"
        transport = PahoTransport(
            url, FixedContext(client_context(load_credentials(fleet.thread.store.folder(me)))), options
        )
        transport.start(Recorder())
        for _ in range(2):
            plain, _ = server.accept()
            with context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(4096)
                assert drip(tls) < 100
        transport.stop()


def drip(tls: socket.socket) -> int:
    """Answer with one byte after another; return how many the other side waited for."""
    tls.settimeout(0.1)
    for sent in range(100):
        try:
            tls.sendall(b"H")
            if not tls.recv(100):
                return sent
        except TimeoutError:
            continue
        except OSError:
            return sent
    return 100
