"""Who gets in: certificates, client ids, names in use, and what a refusal looks like on both sides."""

from __future__ import annotations

import contextlib
import http.client
import resource
import shutil
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from edge_mqtt.broker_bridge.broker import embedded
from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.broker_bridge.broker.handshakes import Handshakes
from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.broker_bridge.transport import websocket
from edge_mqtt.broker_bridge.transport.interface import RefusalReason
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context
from tests.support.fixed_context import FixedContext
from tests.support.scenario_broker import (
    EXECUTOR,
    ROGUE,
    ROGUE_NAME,
    TOPICS,
    VICTIM,
    VICTIM_NAME,
    BrokerThread,
    Recorder,
    Site,
    connect_packet,
)


def options(identity: Identity, incarnation: str = "one", keep_alive_s: int = 60) -> ConnectOptions:
    return ConnectOptions(identity=identity, incarnation=incarnation, keep_alive_s=keep_alive_s, subscriptions=())


def refused(transport: PahoTransport) -> Recorder:
    recorder = Recorder()
    transport.start(recorder)
    recorder.wait_event("refused")
    assert recorder.events == ["refused"]
    assert not transport.publish("t", b"", qos=0)
    transport.stop()
    return recorder


def context_of_another_authority(site: Site) -> ssl.SSLContext:
    site.other_store.issue(ROGUE, force=False, now=datetime.now(UTC))
    context = client_context(load_credentials(site.other_store.folder(ROGUE)))
    context.load_verify_locations(site.thread.store.directory / "bridge" / "ca.crt")
    return context


def context_without_certificate(site: Site) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(site.thread.store.directory / "bridge" / "ca.crt"))


def context_of_a_server(site: Site) -> ssl.SSLContext:
    context = context_without_certificate(site)
    folder = site.thread.store.directory / "bridge"
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    return context


def wait_for_line(caplog: pytest.LogCaptureFixture, *parts: str) -> None:
    """Wait until one line of the log has all of ``parts``."""
    deadline = time.monotonic() + 10
    while not any(all(part in record.getMessage() for part in parts) for record in list(caplog.records)):
        assert time.monotonic() < deadline, caplog.text
        time.sleep(0.01)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("make", [context_of_another_authority, context_without_certificate, context_of_a_server])
def test_a_wrong_or_missing_certificate_is_refused_in_one_line(
    site: Site, make: Callable[[Site], ssl.SSLContext], version: ssl.TLSVersion
) -> None:
    context = make(site)
    context.maximum_version = version
    transport = PahoTransport(site.thread.url, FixedContext(context), options(ROGUE))
    if version is ssl.TLSVersion.TLSv1_2 and make is context_without_certificate:
        # The alert of TLS 1.2 says no more than that the handshake failed; it need not be for ever.
        recorder = Recorder()
        transport.start(recorder)
        site.expect_one_warning("127.0.0.1:", "refused", "certificate")
        transport.stop()
        assert recorder.events == []
    else:
        refusal = refused(transport).refusal
        assert refusal is not None
        assert refusal.reason is RefusalReason.NOT_AUTHORIZED
        assert "certificate" in refusal.message
        site.expect_one_warning("127.0.0.1:", "refused", "certificate")
    site.expect_undisturbed_victim()


def test_a_certificate_with_another_client_id_is_refused(site: Site) -> None:
    transport = PahoTransport(site.thread.url, FixedContext(site.context(ROGUE)), options(VICTIM))
    refusal = refused(transport).refusal
    assert refusal is not None
    assert refusal.reason is RefusalReason.NOT_AUTHORIZED
    site.expect_one_warning("127.0.0.1:", "worker:rogue", "worker:victim")
    site.expect_undisturbed_victim()
    assert site.broker.refused == 1


def test_a_context_that_asks_for_no_certificate_is_not_served(site: Site, tmp_path: Path) -> None:
    second = BrokerThread(tmp_path / "second")
    careless = EmbeddedBroker(
        ssl_contexts=FixedContext(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)), topics=TOPICS, host="127.0.0.1", port=0
    )
    with pytest.raises(ValueError, match="client certificates"):
        second.run(careless.start())
    second.close()
    site.expect_undisturbed_victim()


@pytest.mark.parametrize(
    ("connect", "code", "reason"),
    [
        (connect_packet(ROGUE.client_id, clean=False), 5, "persistent session"),
        (connect_packet(ROGUE.client_id, will_topic=TOPICS.presence(VICTIM_NAME)), 5, "will"),
        (connect_packet(ROGUE.client_id, level=5), 1, "level 5"),
        (connect_packet(""), 5, "client id ''"),
    ],
    ids=["persistent", "foreign will", "mqtt 5", "no client id"],
)
def test_what_a_client_asks_for_in_connect_is_checked(site: Site, connect: bytes, code: int, reason: str) -> None:
    with site.raw(ROGUE) as client:
        client.send(connect)
        assert client.packet() == bytes((0x20, 2, 0, code))
        with pytest.raises(ConnectionClosed):
            client.packet()
    site.expect_one_warning("127.0.0.1:", reason)
    site.expect_undisturbed_victim()


def test_a_bridge_whose_certificate_has_expired_is_tried_again_until_it_has_a_new_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, long_ago = Store(tmp_path / "certs"), datetime.now(UTC) - timedelta(days=20)
    store.create(hosts=["localhost"], force=False, now=long_ago)
    thread = BrokerThread(store.directory, (ROGUE,))
    folder = store.directory / "bridge"
    good = shutil.copytree(folder, tmp_path / "good")
    store.issue(Identity(Role.BRIDGE, "bridge"), hosts=["localhost"], days=10, force=True, now=long_ago)
    thread.broker._ssl_contexts().load_cert_chain(folder / "tls.crt", folder / "tls.key")
    transport, recorder = thread.transport(ROGUE, options(ROGUE)), Recorder()
    transport.start(recorder)
    wait_for_line(caplog, "no connection to", "it has expired", "this machine's clock says")
    thread.broker._ssl_contexts().load_cert_chain(good / "tls.crt", good / "tls.key")
    recorder.wait_event("connected")
    assert recorder.events == ["connected"]
    transport.stop()
    thread.close()


def test_a_client_whose_certificate_is_not_valid_yet_is_refused_and_goes_on_trying(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    soon = datetime.now(UTC) + timedelta(days=5)
    site.thread.store.issue(ROGUE, force=True, now=soon)
    early = client_context(load_credentials(site.thread.store.folder(ROGUE), now=soon + timedelta(days=1)))
    transport = PahoTransport(site.thread.url, FixedContext(early), options(ROGUE))
    recorder = Recorder()
    transport.start(recorder)
    wait_for_line(caplog, "no connection to", "does not accept our certificate", "this machine's clock says")
    wait_for_line(caplog, "127.0.0.1:", "not yet valid", "this machine's clock says")
    transport.stop()
    assert recorder.events == []


def test_a_bridge_under_another_name_is_refused_for_good_in_one_line(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reach(_host: str, port: int, timeout_s: float) -> socket.socket:
        return socket.create_connection(("127.0.0.1", port), timeout_s)

    monkeypatch.setattr(websocket, "_reach", reach)
    url = f"wss://bridge.example:{site.broker.port}/mqtt"
    refusal = refused(PahoTransport(url, FixedContext(site.context(ROGUE)), options(ROGUE))).refusal
    assert refusal is not None
    assert refusal.reason is RefusalReason.SERVER_CERTIFICATE
    assert "'bridge.example'" in refusal.message
    assert "--bridge-host" in refusal.message
    assert "\n" not in refusal.message


@pytest.mark.parametrize("timing", [Timing(connect_s=0.2)])
def test_a_silent_client_is_turned_away(site: Site) -> None:
    with site.raw(ROGUE) as client, pytest.raises(ConnectionClosed):
        client.packet()
    site.expect_one_warning("127.0.0.1:", "no CONNECT")
    site.expect_undisturbed_victim()


@pytest.mark.parametrize("timing", [Timing(tls_handshake_s=0.5)])
def test_a_client_that_never_finishes_tls_is_turned_away(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.broker.port)) as plain:
        assert plain.recv(1) == b""
    site.expect_one_warning("127.0.0.1:", "TLS handshake")
    site.expect_undisturbed_victim()


@pytest.mark.parametrize("limits", [Limits(handshakes=20)])
def test_a_flood_of_silent_connections_keeps_nobody_out(site: Site) -> None:
    address = ("127.0.0.1", site.broker.port)
    with ExitStack() as stack:
        flood = [stack.enter_context(socket.create_connection(address)) for _ in range(200)]
        # The oldest are thrown out for the newer ones, long before their time is over.
        assert flood[0].recv(1) == b""
        assert flood[179].recv(1) == b""
        newcomer = Recorder()
        site.transport(ROGUE).start(newcomer)
        newcomer.wait_event("connected")
        site.expect_undisturbed_victim()
        assert len(handshakes(site)) <= 20
    site.expect_one_warning("more than 20 connections are in their TLS handshake")


def test_a_flood_of_strangers_certificates_disturbs_nobody(site: Site) -> None:
    strangers = context_of_another_authority(site)
    address = ("127.0.0.1", site.broker.port)
    for _ in range(50):
        with socket.create_connection(address) as plain, contextlib.suppress(ssl.SSLError, ConnectionError):
            strangers.wrap_socket(plain, server_hostname="localhost").close()
        site.expect_undisturbed_victim()
    assert site.broker.connections == 1


def test_an_upgrade_that_comes_in_drips_is_cut_short(site: Site) -> None:
    slow = BrokerThread(site.thread.store.directory, (), timing=Timing(open_s=0.5))
    with (
        socket.create_connection(("127.0.0.1", slow.broker.port)) as plain,
        site.context(ROGUE).wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        began = time.monotonic()
        tls.sendall(b"GET /mqtt HTTP/1.1\r\n")
        tls.settimeout(0.1)
        assert drip_until_closed(tls) < 100
        assert time.monotonic() - began < 5
    slow.close()
    site.expect_undisturbed_victim()


def drip_until_closed(tls: ssl.SSLSocket) -> int:
    """Send one header byte after another; return how many the server took."""
    for sent in range(100):
        try:
            tls.sendall(b"X")
            tls.recv(1)
        except TimeoutError:
            continue
        except OSError:
            return sent
        return sent
    return 100


def test_more_open_files_are_asked_for_than_a_shell_gives(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        BrokerThread(tmp_path).close()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, embedded.WANTED_FILES), hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def handshakes(site: Site) -> Handshakes:
    """Return the TLS handshakes that go on."""
    listener = site.broker._listener
    assert listener is not None
    return listener._handshakes


def test_stopping_does_not_wait_for_handshakes(tmp_path: Path) -> None:
    broker = BrokerThread(tmp_path)
    with socket.create_connection(("127.0.0.1", broker.broker.port)) as plain:
        listener = broker.broker._listener
        assert listener is not None
        while not len(listener._handshakes):
            time.sleep(0.001)
        broker.close()
        assert plain.recv(1) == b""


def test_a_plain_http_request_is_refused_in_one_line(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.broker.port)) as plain:
        plain.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP")
    site.expect_one_warning("127.0.0.1:", "http request")
    site.expect_undisturbed_victim()


@pytest.mark.parametrize(("path", "status"), [("/", 404), ("/mqtt2", 404), ("/mqtt", 426)])
def test_visitors_get_an_answer_and_make_no_noise(site: Site, path: str, status: int) -> None:
    connection = http.client.HTTPSConnection("localhost", site.broker.port, context=site.context(ROGUE), timeout=10)
    connection.request("GET", path)
    assert connection.getresponse().status == status
    connection.close()
    site.expect_undisturbed_victim()
    assert site.warnings() == []


def test_a_visitor_that_hangs_up_after_tls_makes_no_noise(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.broker.port)) as plain:
        site.context(ROGUE).wrap_socket(plain, server_hostname="localhost").close()
    site.expect_undisturbed_victim()
    assert site.warnings() == []


def test_garbage_instead_of_http_is_refused_in_one_line(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.broker.port)) as plain:
        tls = site.context(ROGUE).wrap_socket(plain, server_hostname="localhost")
        tls.sendall(b"\x10\x00 no HTTP at all\r\n\r\n")
        while tls.recv(1000):
            pass
        tls.close()
    site.expect_one_warning("127.0.0.1:", "handshake")
    site.expect_undisturbed_victim()


def test_a_name_in_use_is_refused_and_in_the_end_for_good(site: Site) -> None:
    transport = site.transport(VICTIM, incarnation="two", keep_alive_s=1)
    refusal = refused(transport).refusal
    assert refusal is not None
    assert refusal.reason is RefusalReason.NAME_IN_USE
    assert "worker:victim" in refusal.message
    assert all("in use" in line for line in site.warnings())
    site.expect_undisturbed_victim()


def test_a_name_is_free_again_when_its_program_has_gone(site: Site) -> None:
    newcomer = site.transport(VICTIM, incarnation="two", keep_alive_s=60)
    recorder = Recorder()
    newcomer.start(recorder)
    site.expect_one_warning("in use")
    site.victim.stop()
    recorder.wait_event("connected")


def test_a_program_that_reconnects_takes_its_old_connection_over(site: Site) -> None:
    presence = TOPICS.presence(ROGUE_NAME)
    with site.raw(ROGUE) as old, site.raw(ROGUE) as new:
        assert old.connect(ROGUE.client_id, will_topic=presence) == 0
        assert new.connect(ROGUE.client_id, will_topic=presence) == 0
        with pytest.raises(ConnectionClosed):
            old.packet()
        # The old connection's will is out before the new one is let in.
        assert site.heard.wait_packets(1)[0] == (presence, b"the will")
        assert new.subscribe(TOPICS.control(ROGUE_NAME)) == [1]
        site.centre.publish(TOPICS.control(ROGUE_NAME), b"you", qos=0)
        assert new.message()[:2] == (TOPICS.control(ROGUE_NAME), b"you")
    site.expect_undisturbed_victim()


def test_an_executor_may_connect(site: Site) -> None:
    transport = site.transport(EXECUTOR)
    recorder = Recorder()
    transport.start(recorder)
    recorder.wait_event("connected")
    assert Identity(Role.EXECUTOR, "main") == EXECUTOR
    assert site.broker.connections == 2
