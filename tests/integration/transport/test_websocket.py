"""Opening a WebSocket to servers that do not want one, and to one that does."""

from __future__ import annotations

import gc
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

import pytest
from websockets.frames import Frame, Opcode
from websockets.utils import accept_key

from edge_mqtt.broker_bridge.transport.endpoint import Endpoint
from edge_mqtt.broker_bridge.transport.websocket import HandshakeFailed, WebSocket, open_websocket
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context, server_context

#: On, and zero seconds: closing sends a reset.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
WORKER = Identity(Role.WORKER, "lab-3")


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The client's side and the server's."""
    folder = tmp_path_factory.mktemp("certs")
    store, now = Store(folder), datetime.now(UTC)
    store.create(hosts=["localhost", "127.0.0.1"], force=False, now=now)
    store.issue(WORKER, force=False, now=now)
    return client_context(load_credentials(store.folder(WORKER))), server_context(load_credentials(folder / "bridge"))


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def ignore(_sock: socket.socket) -> None:
    """Take no note of a socket."""


def connect(
    port: int, context: ssl.SSLContext, timeout_s: float = 5.0, opened: Callable[[socket.socket], None] = ignore
) -> WebSocket:
    return open_websocket(
        Endpoint("localhost", port, "/mqtt"), context, proxy=None, timeout_s=timeout_s, opened=opened
    )


@contextmanager
def server(
    context: ssl.SSLContext, answer: Callable[[bytes], bytes], *, hangs_up: bool = True
) -> Iterator[tuple[int, list[bytes]]]:
    """Answer one request, and hang up first or last; yields the port, and the request once it is there."""
    requests: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with context.wrap_socket(plain, server_side=True) as tls:
                request = tls.recv(4096)
                requests.append(request)
                # The other side may close its socket in the middle of it.
                with suppress(OSError):
                    tls.sendall(answer(request))
                    tls.unwrap() if hangs_up else tls.recv(1)

        thread = threading.Thread(target=serve, name="server")
        thread.start()
        try:
            yield listener.getsockname()[1], requests
        finally:
            thread.join(10)


def accept(request: bytes, *, key: str | None = None, protocol: str = "mqtt") -> bytes:
    (asked,) = (line.partition(b": ")[2] for line in request.split(b"\r\n") if line.startswith(b"Sec-WebSocket-Key"))
    offered = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {key or accept_key(asked.decode())}\r\n{offered}\r\n"
    ).encode()


def test_it_asks_for_mqtt_without_compression_and_keeps_what_comes_with_the_answer(contexts: Contexts) -> None:
    ours, theirs = contexts

    def answer(request: bytes) -> bytes:
        return accept(request) + Frame(Opcode.BINARY, b"early").serialize(mask=False)

    with server(theirs, answer) as (port, requests):
        websocket = connect(port, ours)
        assert websocket.pending
        assert websocket.recv(100) == b"early"
        websocket.close()
    head, *lines = requests[0].decode().lower().split("\r\n")
    assert head == "get /mqtt http/1.1"
    assert {f"host: localhost:{port}", "sec-websocket-protocol: mqtt", "sec-websocket-version: 13"} <= set(lines)
    assert "extensions" not in requests[0].decode().lower()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (
            lambda _: b"HTTP/1.1 404 Not Found\r\nContent-Length: 14\r\n\r\nno such page\r\n",
            "the server answers 'HTTP/1.1 404 Not Found': check that the URL",
        ),
        (
            lambda _: b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n<html>Pay here</html>",
            "the server answers 'HTTP/1.1 403 Forbidden': check",
        ),
        (
            lambda _: b"HTTP/1.1 302 \x1b[31m\r\n\r\n",
            r"no WebSocket server's ('invalid HTTP reason phrase: \x1b[31m'): check",
        ),
        (lambda _: b"HTTP/1.0 302 Found\r\n\r\n", "('unsupported protocol; expected HTTP/1.1: HTTP/1.0 302 Found')"),
        (lambda _: b"220 mail.example " + b"x" * 5000 + b"\r\n", "no WebSocket server's ('unsupported protocol;"),
        (lambda _: b"x" * 100_000, "no WebSocket server's ('line too long')"),
        (lambda _: b"", "the server hung up instead of an answer"),
        (lambda _: b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "('missing Connection header')"),
        (lambda request: accept(request, key="bm9uc2Vuc2U="), "key is wrong: is there a cache in between?"),
        (lambda request: accept(request, protocol=""), "does not speak MQTT over this WebSocket: check the URL"),
        (lambda request: accept(request, protocol="soap"), "('unsupported subprotocol: soap')"),
    ],
)
def test_what_a_server_answers_instead_is_said_in_one_short_line(
    contexts: Contexts, answer: Callable[[bytes], bytes], why: str
) -> None:
    ours, theirs = contexts
    opened: list[socket.socket] = []
    with server(theirs, answer) as (port, _), pytest.raises(HandshakeFailed) as caught:
        connect(port, ours, opened=opened.append)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 250
    # The plain one and the one that speaks TLS: neither has a descriptor any more.
    assert [sock.fileno() for sock in opened] == [-1, -1]


def test_an_answer_whose_rest_does_not_come_is_not_waited_for(contexts: Contexts) -> None:
    ours, theirs = contexts
    beginning = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"
    with server(theirs, lambda _: beginning, hangs_up=False) as (port, _), pytest.raises(TimeoutError):
        connect(port, ours, timeout_s=0.5)


def test_a_connection_that_is_reset_before_tls_begins_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def reset(_sock: socket.socket) -> None:
            accepted, _ = listener.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            accepted.close()

        with pytest.raises(ConnectionResetError):
            open_websocket(
                Endpoint("localhost", port, "/mqtt"),
                ssl.create_default_context(),
                proxy=None,
                timeout_s=5.0,
                opened=reset,
            )
        gc.collect()
