"""Real TLS handshakes on loopback: who gets in, as whom, and what the other one is told."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.private_files import FileUnusable
from edge_mqtt.certs.credentials import Credentials
from edge_mqtt.certs.errors import CredentialsUnusable
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context, depends_on_the_time, explain_tls_error, peer_identity, server_context

#: Seconds after which a handshake on loopback hangs.
TIMEOUT_S = 10.0
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
WORKER = Identity(Role.WORKER, "lab-3")
EXPIRED = Identity(Role.WORKER, "expired")
EARLY = Identity(Role.WORKER, "early")
#: What every line about a certificate's time ends with.
CLOCK = "(this machine's clock says 20"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What each end of a connection saw."""

    #: Whom the server read from the certificate.
    identity: Identity | None
    #: What the client received after the handshake.
    received: bytes
    client_error: OSError | None
    server_error: OSError | None


class Server:
    """Accepts one connection, says hello to it and remembers who it was."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(TIMEOUT_S)
        self.port: int = self._socket.getsockname()[1]
        self.identity: Identity | None = None
        self.error: OSError | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        connection, _ = self._socket.accept()
        connection.settimeout(TIMEOUT_S)
        with connection:
            try:
                with self._context.wrap_socket(connection, server_side=True) as tls:
                    self.identity = peer_identity(tls.getpeercert() or {})
                    tls.sendall(b"hello")
            except OSError as error:
                self.error = error

    def close(self) -> None:
        self._thread.join(TIMEOUT_S)
        self._socket.close()


@contextlib.contextmanager
def serving(context: ssl.SSLContext) -> Iterator[Server]:
    server = Server(context)
    try:
        yield server
    finally:
        server.close()


def connect(server: ssl.SSLContext, client: ssl.SSLContext, *, host: str = "localhost") -> Outcome:
    received, failure = b"", None
    with serving(server) as end:
        try:
            with (
                socket.create_connection(("127.0.0.1", end.port), timeout=TIMEOUT_S) as plain,
                client.wrap_socket(plain, server_hostname=host) as tls,
            ):
                # With TLS 1.3 a refused client certificate shows only now.
                received = tls.recv(100)
        except OSError as error:
            failure = error
    return Outcome(identity=end.identity, received=received, client_error=failure, server_error=end.error)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return new_store(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return new_store(tmp_path_factory.mktemp("theirs"))


def new_store(directory: Path) -> Store:
    store = Store(directory)
    long_ago = datetime.now(UTC) - timedelta(days=30)
    store.create(hosts=["localhost", "127.0.0.1"], force=False, now=long_ago)
    store.issue(WORKER, force=False, now=long_ago)
    for role in (Role.EXECUTOR, Role.OPERATOR):
        store.issue(Identity(role, "main"), force=False, now=long_ago)
    store.issue(EXPIRED, days=10, force=False, now=long_ago)
    store.issue(EARLY, force=False, now=datetime.now(UTC) + timedelta(days=5))
    return store


def party(store: Store, identity: Identity, *, days: int = -25) -> Credentials:
    """Return a party as it was loaded so many days from now."""
    return load_credentials(store.folder(identity), now=datetime.now(UTC) + timedelta(days=days))


def bridge(store: Store) -> Credentials:
    return party(store, Identity(Role.BRIDGE, "bridge"))


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = version
    return context


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "identity", [WORKER, Identity(Role.EXECUTOR, "main"), Identity(Role.OPERATOR, "main")], ids=str
)
def test_a_party_gets_in_and_is_known_by_its_certificate(
    store: Store, identity: Identity, version: ssl.TLSVersion
) -> None:
    client = only(client_context(party(store, identity)), version)
    outcome = connect(server_context(bridge(store)), client)
    assert (outcome.received, outcome.client_error, outcome.server_error) == (b"hello", None, None)
    assert outcome.identity == identity


def test_a_bridge_answers_as_an_address_too(store: Store) -> None:
    outcome = connect(server_context(bridge(store)), client_context(party(store, WORKER)), host="127.0.0.1")
    assert outcome.identity == WORKER


@pytest.mark.parametrize("version", VERSIONS)
def test_nobody_gets_in_without_a_certificate(store: Store, version: ssl.TLSVersion) -> None:
    bare = ssl.create_default_context(cafile=str(store.folder(WORKER) / "ca.crt"))
    outcome = connect(server_context(bridge(store)), only(bare, version))
    assert (outcome.identity, outcome.received) == (None, b"")
    assert outcome.server_error is not None
    assert "the client sent no certificate" in explain_tls_error(outcome.server_error)
    assert outcome.client_error is not None
    assert "client certificate" in explain_tls_error(outcome.client_error)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_certificate_of_another_authority_is_refused(
    store: Store, stranger: Store, version: ssl.TLSVersion
) -> None:
    client = client_context(party(stranger, WORKER))
    client.load_verify_locations(store.folder(WORKER) / "ca.crt")
    outcome = connect(server_context(bridge(store)), only(client, version))
    assert (outcome.identity, outcome.received) == (None, b"")
    assert outcome.server_error is not None
    assert "an authority that is not in our ca.crt" in explain_tls_error(outcome.server_error)
    assert outcome.client_error is not None
    assert "does not know our certificate's authority" in explain_tls_error(outcome.client_error)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("identity", "loaded", "says"),
    [
        (EXPIRED, -25, ("refused, it has expired", "our certificate has expired: issue it again")),
        (EARLY, 6, ("refused, it is not valid yet", "does not accept our certificate: set the clock that is wrong")),
    ],
    ids=str,
)
def test_a_certificate_out_of_its_time_is_refused_and_the_clock_is_named(
    store: Store, version: ssl.TLSVersion, identity: Identity, loaded: int, says: tuple[str, str]
) -> None:
    client = only(client_context(party(store, identity, days=loaded)), version)
    outcome = connect(server_context(bridge(store)), client)
    assert (outcome.identity, outcome.received) == (None, b"")
    for error, text in zip((outcome.server_error, outcome.client_error), says, strict=True):
        assert error is not None
        explanation = explain_tls_error(error)
        assert text in explanation
        assert CLOCK in explanation
        assert "\n" not in explanation
        assert depends_on_the_time(error)


@pytest.mark.parametrize(
    ("issued", "days", "says"),
    [(-20, 10, "it has expired: unless a clock is wrong"), (5, 100, "it is not valid yet: set the clocks")],
    ids=["expired", "not yet valid"],
)
def test_a_bridge_out_of_its_time_is_refused_and_the_clock_is_named(
    tmp_path: Path, issued: int, days: int, says: str
) -> None:
    store = new_store(tmp_path)
    now = datetime.now(UTC)
    identity = Identity(Role.BRIDGE, "bridge")
    store.issue(identity, hosts=["localhost"], days=days, force=True, now=now + timedelta(days=issued))
    outcome = connect(server_context(party(store, identity, days=issued + 1)), client_context(party(store, WORKER)))
    assert outcome.identity is None
    assert outcome.client_error is not None
    explanation = explain_tls_error(outcome.client_error)
    assert says in explanation
    assert CLOCK in explanation
    assert depends_on_the_time(outcome.client_error)


def test_a_bridge_of_another_authority_is_refused(store: Store, stranger: Store) -> None:
    outcome = connect(server_context(bridge(stranger)), client_context(party(store, WORKER)))
    assert outcome.identity is None
    assert outcome.client_error is not None
    assert "an authority that is not in our ca.crt" in explain_tls_error(outcome.client_error)
    assert CLOCK not in explain_tls_error(outcome.client_error)
    assert not depends_on_the_time(outcome.client_error)
    assert outcome.server_error is not None
    assert "does not know our certificate's authority" in explain_tls_error(outcome.server_error)


@pytest.mark.parametrize("host", ["edge.example.org", "127.0.0.2"])
def test_a_bridge_under_another_name_is_refused(store: Store, host: str) -> None:
    outcome = connect(server_context(bridge(store)), client_context(party(store, WORKER)), host=host)
    assert outcome.identity is None
    assert outcome.client_error is not None
    explanation = explain_tls_error(outcome.client_error)
    assert host in explanation
    assert "--bridge-host" in explanation


def test_a_workers_key_cannot_pose_as_the_bridge(store: Store) -> None:
    outcome = connect(server_context(party(store, WORKER)), client_context(party(store, WORKER)))
    assert outcome.identity is None
    assert outcome.client_error is not None
    assert "was not made for this end" in explain_tls_error(outcome.client_error)


def test_the_bridges_key_cannot_pose_as_a_client(store: Store) -> None:
    outcome = connect(server_context(bridge(store)), client_context(bridge(store)))
    assert outcome.identity is None
    assert outcome.client_error is not None
    assert "not for this end" in explain_tls_error(outcome.client_error)


@pytest.mark.parametrize("side", ["client", "server"])
def test_tls_below_1_2_is_refused(store: Store, side: str) -> None:
    contexts = {"server": server_context(bridge(store)), "client": client_context(party(store, WORKER))}
    old = contexts[side]
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        only(old, ssl.TLSVersion.TLSv1_1)
    # Debian's OpenSSL has no cipher for TLS 1.1 at its default security level.
    old.set_ciphers("ALL:@SECLEVEL=0")
    outcome = connect(contexts["server"], contexts["client"])
    assert outcome.identity is None
    assert outcome.client_error is not None
    assert outcome.received == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_no_session_ticket_is_handed_out(store: Store, version: ssl.TLSVersion) -> None:
    client = only(client_context(party(store, WORKER)), version)
    with (
        serving(server_context(bridge(store))) as end,
        socket.create_connection(("127.0.0.1", end.port), timeout=TIMEOUT_S) as plain,
        client.wrap_socket(plain, server_hostname="localhost") as tls,
    ):
        assert tls.recv(100) == b"hello"
        session = tls.session
    assert session is not None
    assert not session.has_ticket


def test_something_that_is_not_tls_is_explained(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain_server:
        plain_server.settimeout(TIMEOUT_S)
        port = plain_server.getsockname()[1]

        def answer() -> None:
            connection, _ = plain_server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                connection.recv(10_000)

        thread = threading.Thread(target=answer)
        thread.start()
        context = client_context(party(store, WORKER))
        with (
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain,
            pytest.raises(ssl.SSLError) as caught,
        ):
            context.wrap_socket(plain, server_hostname="localhost")
        thread.join(TIMEOUT_S)
    assert "does not speak TLS" in explain_tls_error(caught.value)


def test_errors_below_tls_are_explained() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ConnectionRefusedError) as refused:
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
    assert "nothing listens there" in explain_tls_error(refused.value)
    assert "cannot be resolved" in explain_tls_error(socket.gaierror(-2, "Name or service not known"))
    assert "no answer in time" in explain_tls_error(TimeoutError())
    assert "the connection was cut" in explain_tls_error(ConnectionResetError())
    assert "Network is unreachable" in explain_tls_error(OSError(101, "Network is unreachable"))
    assert explain_tls_error(OSError()).endswith("OSError")


def test_an_unknown_tls_error_is_one_line() -> None:
    explanation = explain_tls_error(ssl.SSLError(1, "[SSL] something\nnew"))
    assert "something" in explanation
    assert "\n" not in explanation


@pytest.mark.parametrize(
    "peercert",
    [
        {},
        {"subject": ((("commonName", "lab-3"),),)},
        {"subjectAltName": (("DNS", "urn:edge-mqtt:worker:lab-3"),), "subject": ((("commonName", "lab-3"),),)},
        {"subjectAltName": (("URI", "urn:edge-mqtt:worker:lab-3"),), "subject": ((("commonName", "lab-4"),),)},
        {"subjectAltName": "urn:edge-mqtt:worker:lab-3", "subject": "lab-3"},
    ],
)
def test_a_certificate_that_is_not_ours_is_nobody(peercert: dict[str, object]) -> None:
    with pytest.raises(CredentialsUnusable):
        peer_identity(peercert)


def test_files_that_vanish_after_loading_are_one_line(tmp_path: Path) -> None:
    loaded = bridge(new_store(tmp_path))
    (loaded.directory / "tls.key").unlink()
    with pytest.raises(FileUnusable, match="copy the whole folder again"):
        server_context(loaded)
