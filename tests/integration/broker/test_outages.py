"""The paho transport against servers that die, hang, refuse or are reached through a proxy."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve
from websockets.typing import Subprotocol

from edge_mqtt.broker_bridge.broker.packets import PacketSplitter
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.broker_bridge.transport.interface import RefusalReason
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context, server_context
from tests.support.fixed_context import FixedContext
from tests.support.scenario_broker import (
    ROGUE,
    ROGUE_NAME,
    TOPICS,
    VICTIM,
    VICTIM_NAME,
    BrokerThread,
    Recorder,
    packet,
)
from tests.support.scenario_transport import WORKER_NAME

CONTROL = TOPICS.control(ROGUE_NAME)
CONNACK, SUBACK = packet(2, 0, b"\0\0"), packet(9, 0, b"\0\1\1")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("certs"))
    now = datetime.now(UTC)
    made.create(hosts=["localhost"], force=False, now=now)
    made.issue(ROGUE, force=False, now=now)
    return made


class FakeBroker:
    """Answers each kind of packet with what it was given; says nothing else."""

    def __init__(self, store: Store, answers: dict[int, bytes]) -> None:
        self.answers = answers
        self.connects = 0
        self.kinds: list[int] = []
        context = server_context(load_credentials(store.directory / "bridge"))
        self._server = serve(
            self._converse,
            "127.0.0.1",
            0,
            ssl=context,
            subprotocols=[Subprotocol("mqtt")],
            compression=None,
            ping_interval=None,
            close_timeout=0.1,
        )
        self.port: int = self._server.socket.getsockname()[1]
        self.url = f"wss://localhost:{self.port}/mqtt"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _converse(self, websocket: ServerConnection) -> None:
        splitter = PacketSplitter()
        try:
            for message in websocket:
                assert isinstance(message, bytes)
                for received in splitter.feed(message):
                    kind = received[0] >> 4
                    self.kinds.append(kind)
                    self.connects += kind == 1
                    if kind in self.answers:
                        websocket.send(self.answers[kind])
        except ConnectionClosed:
            return

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()


@pytest.fixture
def fake(store: Store) -> Iterator[Callable[[dict[int, bytes]], FakeBroker]]:
    made: list[FakeBroker] = []

    def make(answers: dict[int, bytes]) -> FakeBroker:
        made.append(FakeBroker(store, answers))
        return made[-1]

    yield make
    for broker in made:
        broker.close()


@pytest.fixture
def connect(store: Store) -> Iterator[Callable[..., tuple[PahoTransport, Recorder]]]:
    made: list[PahoTransport] = []

    def start(url: str, keep_alive_s: int = 60) -> tuple[PahoTransport, Recorder]:
        options = ConnectOptions(
            identity=ROGUE, incarnation="one", keep_alive_s=keep_alive_s, subscriptions=(CONTROL,)
        )
        transport = PahoTransport(url, FixedContext(client_context(load_credentials(store.folder(ROGUE)))), options)
        made.append(transport)
        recorder = Recorder()
        transport.start(recorder)
        return transport, recorder

    yield start
    for transport in made:
        transport.stop()


Connect = Callable[..., tuple[PahoTransport, Recorder]]
Fake = Callable[[dict[int, bytes]], FakeBroker]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({1: packet(2, 0, b"\0\1")}, RefusalReason.PROTOCOL_VERSION),
        ({1: packet(2, 0, b"\0\4")}, RefusalReason.NOT_AUTHORIZED),
        ({1: packet(2, 0, b"\0\5")}, RefusalReason.NOT_AUTHORIZED),
        ({1: CONNACK, 8: packet(9, 0, b"\0\1\x80")}, RefusalReason.NOT_AUTHORIZED),
    ],
    ids=["version", "login", "not authorised", "subscription"],
)
def test_a_refusal_ends_the_attempts(
    fake: Fake, connect: Connect, answers: dict[int, bytes], reason: RefusalReason
) -> None:
    broker = fake(answers)
    _, recorder = connect(broker.url)
    recorder.wait_event("refused")
    assert recorder.refusal is not None
    assert recorder.refusal.reason is reason
    assert broker.url in recorder.refusal.message
    assert broker.connects == 1
    assert recorder.events == ["refused"]


def test_a_server_of_another_authority_is_refused_at_the_start(tmp_path: Path, connect: Connect) -> None:
    other = BrokerThread(tmp_path)
    _, recorder = connect(other.url)
    recorder.wait_event("refused")
    assert recorder.refusal is not None
    assert recorder.refusal.reason is RefusalReason.SERVER_CERTIFICATE
    other.close()


def test_a_server_of_another_authority_in_the_place_of_ours_is_outlasted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours = BrokerThread(tmp_path / "ours", (ROGUE,))
    options = ConnectOptions(identity=ROGUE, incarnation="one", keep_alive_s=60, subscriptions=(CONTROL,))
    transport, recorder = ours.transport(ROGUE, options), Recorder()
    transport.start(recorder)
    recorder.wait_event("connected")
    port = ours.broker.port
    ours.close()
    other = BrokerThread(tmp_path / "other", port=port)
    recorder.wait_event("disconnected")
    deadline = time.monotonic() + 15
    while not any("the other side's certificate is refused" in record.getMessage() for record in caplog.records):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    other.close()
    again = BrokerThread(tmp_path / "ours", (), port=port)
    recorder.wait_event("connected", 2)
    transport.stop()
    again.close()
    assert recorder.refusal is None


def test_a_server_that_is_not_available_is_tried_again(fake: Fake, connect: Connect) -> None:
    broker = fake({1: packet(2, 0, b"\0\3"), 8: SUBACK})
    _, recorder = connect(broker.url)
    deadline = time.monotonic() + 15
    while broker.connects < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    broker.answers[1] = CONNACK
    recorder.wait_event("connected")


def test_a_server_that_no_longer_answers_pings_is_left(fake: Fake, connect: Connect) -> None:
    broker = fake({1: CONNACK, 8: SUBACK})
    transport, recorder = connect(broker.url, keep_alive_s=1)
    recorder.wait_event("connected")
    connected = time.monotonic()
    recorder.wait_event("disconnected")
    assert 1.4 < time.monotonic() - connected < 1.9
    assert 12 in broker.kinds
    assert not transport.publish(CONTROL, b"", qos=0) or transport.connection > 1
    recorder.wait_event("connected", 2)


def test_an_answered_ping_keeps_the_connection(fake: Fake, connect: Connect) -> None:
    broker = fake({1: CONNACK, 8: SUBACK, 12: packet(13, 0, b"")})
    _, recorder = connect(broker.url, keep_alive_s=1)
    deadline = time.monotonic() + 10
    while broker.kinds.count(12) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert recorder.events == ["connected"]


def test_a_broker_that_comes_back_is_found_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = BrokerThread(tmp_path, (VICTIM,))
    port = first.broker.port
    options = ConnectOptions(
        identity=VICTIM, incarnation="one", keep_alive_s=60, subscriptions=(TOPICS.control(VICTIM_NAME),)
    )
    transport = first.transport(VICTIM, options)
    recorder = Recorder()
    transport.start(recorder)
    recorder.wait_event("connected")
    first.close()
    recorder.wait_event("disconnected")
    assert not transport.publish(TOPICS.results(VICTIM_NAME), b"", qos=1)
    second = BrokerThread(tmp_path, (), port=port)
    recorder.wait_event("connected", 2)
    assert transport.connection == 2
    assert f"no connection to {first.url}: ended by the other side or the network; next attempt in" in caplog.text
    transport.stop()
    second.close()


class Proxy:
    """Opens tunnels (CONNECT), in two pieces as a slow proxy does, and remembers to where."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._open: list[socket.socket] = [self._socket]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            request = b""
            while b"\r\n\r\n" not in request:
                request += client.recv(1000)
            self.asked.append(request.decode())
            host, port = request.split()[1].decode().rsplit(":", 1)
            server = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 OK\r\n")
            time.sleep(0.05)
            client.sendall(b"Via: slow\r\n\r\n")
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                self._threads.append(threading.Thread(target=_pump, args=(source, sink)))
                self._threads[-1].start()

    def close(self) -> None:
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(5)


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        return


def test_the_proxy_of_the_environment_is_used(fake: Fake, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = Proxy()
    monkeypatch.setenv("HTTPS_PROXY", f"http://ann:s%20cret@127.0.0.1:{proxy.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    broker = fake({1: CONNACK, 8: SUBACK})
    transport, recorder = connect(broker.url)
    recorder.wait_event("connected")
    (asked,) = proxy.asked
    assert asked.startswith(f"CONNECT localhost:{broker.port} ")
    assert "Basic YW5uOnMgY3JldA==" in asked
    transport.stop()
    monkeypatch.setenv("NO_PROXY", "localhost")
    _, direct = connect(broker.url)
    direct.wait_event("connected")
    assert len(proxy.asked) == 1
    proxy.close()


ROOT = Path(__file__).parents[3]
FORKS = """
import os, sys, threading
from tests.support.scenario_transport import *
from tests.support.fixed_context import FixedContext
store = Store(Path(sys.argv[1]))
options = ConnectOptions(identity=WORKER, incarnation="one", keep_alive_s=60, subscriptions=SUBSCRIPTIONS, will=will)
transport = PahoTransport(sys.argv[2], FixedContext(client_context(load_credentials(store.folder(WORKER)))), options)
recorder = Recorder()
transport.start(recorder)
recorder.wait_event("connected")
child = os.fork()
if child == 0:
    assert not transport.publish("t", b"", qos=0)
    transport.stop()
    print(os.getpid(), flush=True)
    threading.Event().wait()
assert transport.publish(TOPICS.results(WORKER.name), b"after the fork", qos=1)
threading.Event().wait()
"""


def test_a_forked_child_does_not_keep_the_connection(tmp_path: Path) -> None:
    broker = BrokerThread(tmp_path)
    heard = Recorder()
    InProcessTransport(broker.broker.router, TOPICS.for_bridge()).start(heard)
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, str(tmp_path), broker.url], stdout=subprocess.PIPE, cwd=ROOT
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            assert heard.wait_packets(1)[0][1] == b"after the fork"
            parent.kill()
            assert heard.wait_packets(2)[1][0] == TOPICS.presence(WORKER_NAME)
        finally:
            os.kill(child, signal.SIGKILL)
    broker.close()


def test_stop_returns_at_once_while_there_is_no_connection(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    transport, recorder = connect(f"wss://localhost:{port}/mqtt")
    began = time.monotonic()
    transport.stop()
    assert time.monotonic() - began < 1
    assert recorder.events == []


def test_a_server_that_is_no_bridge_is_tried_again(store: Store, connect: Connect) -> None:
    context = server_context(load_credentials(store.directory / "bridge"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        transport, recorder = connect(f"wss://localhost:{server.getsockname()[1]}/mqtt")
        for answer in (b"HTTP/1.1 503 Busy\r\n\r\n", b"HTTP/1.1 101 Go\r\n\r\n", b"", b"\x16\x03"):
            plain, _ = server.accept()
            with context.wrap_socket(plain, server_side=True) as tls:
                tls.recv(4096)
                tls.sendall(answer)
        plain, _ = server.accept()
        plain.close()
    transport.stop()
    assert recorder.events == []
