"""The bad link, before anything is concluded from it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.bad_link import BadLink


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets."""
    server = socket.create_server(("127.0.0.1", 0))

    def echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except ConnectionError:
                return

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield server.getsockname()[1]
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def _exchange(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    return _receive(connection, len(data))


def _receive(connection: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        received += connection.recv(65536)
    return received


def _read_until_reset(connection: socket.socket) -> bytes:
    received = b""
    while True:
        try:
            data = connection.recv(65536)
        except ConnectionResetError:
            return received
        assert data, "an end instead of a reset"
        received += data


def test_good_link_forwards_and_counts_bytes(echo_port: int) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        assert _exchange(connection, b"x" * 300_000) == b"x" * 300_000
        assert (link.bytes_up, link.bytes_down) == (300_000, 300_000)
        assert (link.connections, link.open_connections) == (1, 1)


def test_end_of_one_side_reaches_the_other(echo_port: int) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        connection.sendall(b"last words")
        connection.shutdown(socket.SHUT_WR)
        received = b""
        while data := connection.recv(1024):
            received += data
        assert received == b"last words"


def test_cut_link_resets_and_refuses_until_restored(echo_port: int) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        _exchange(connection, b"before")
        link.cut()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", link.port), 5)
        link.restore()
        with socket.create_connection(("127.0.0.1", link.port), 5) as again:
            assert _exchange(again, b"after") == b"after"


def test_black_hole_says_nothing_and_gives_back_what_it_held(echo_port: int) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        _exchange(connection, b"before")
        link.blackhole()
        connection.sendall(b"lost?")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        link.restore()
        connection.settimeout(5)
        assert _receive(connection, 5) == b"lost?"


def test_delay_is_added_in_each_direction(echo_port: int) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        _exchange(connection, b"warm")
        link.delay_s = 0.1
        began = time.monotonic()
        _exchange(connection, b"far")
        assert 0.2 <= time.monotonic() - began < 2


def test_server_that_is_away_looks_like_a_reset() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        away = unused.getsockname()[1]
    # The reset comes while it still connects, or at the first read.
    with (
        BadLink(away) as link,
        pytest.raises(ConnectionResetError),
        socket.create_connection(("127.0.0.1", link.port), 5) as connection,
    ):
        connection.recv(1)


def test_reset_link_takes_new_connections(echo_port: int) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        _exchange(connection, b"before")
        link.reset()
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        with socket.create_connection(("127.0.0.1", link.port), 5) as again:
            assert _exchange(again, b"after") == b"after"


def test_refusing_link_leaves_its_connections_alone(echo_port: int) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        _exchange(connection, b"before")
        link.refuse()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", link.port), 5)
        assert _exchange(connection, b"goes on") == b"goes on"


@pytest.mark.parametrize("up", [True, False])
def test_reset_comes_after_exactly_so_many_bytes(echo_port: int, up: bool) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        _exchange(connection, b"before")
        link.reset_after(70_000, up=up)
        connection.sendall(b"x" * 100_000)
        received = _read_until_reset(connection)
        # A reset may overtake what its receiver has not read yet.
        assert len(received) <= 70_000
        assert (link.bytes_up if up else link.bytes_down) == 70_006
        with socket.create_connection(("127.0.0.1", link.port), 5) as again:
            assert _exchange(again, b"y" * 100_000) == b"y" * 100_000


@pytest.mark.parametrize("up", [True, False])
def test_half_open_link_loses_one_direction_only(echo_port: int, up: bool) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        _exchange(connection, b"before")
        link.blackhole(up=up, down=not up)
        connection.sendall(b"lost?")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert link.bytes_up == (6 if up else 11)
        assert link.bytes_down == 6
        link.restore()
        connection.settimeout(5)
        assert _receive(connection, 5) == b"lost?"


def test_jitter_delays_at_random_and_keeps_the_order(echo_port: int) -> None:
    with BadLink(echo_port) as link, socket.create_connection(("127.0.0.1", link.port), 5) as connection:
        link.jitter_s = 0.02
        data = bytes(range(256))
        took = []
        received = b""
        for start in range(0, 256, 8):
            began = time.monotonic()
            received += _exchange(connection, data[start : start + 8])
            took.append(time.monotonic() - began)
        assert received == data
        assert max(took) - min(took) > 0.01


def test_bandwidth_is_shared_and_limits_each_direction(echo_port: int) -> None:
    with (
        BadLink(echo_port) as link,
        socket.create_connection(("127.0.0.1", link.port), 5) as one,
        socket.create_connection(("127.0.0.1", link.port), 5) as two,
    ):
        link.bytes_per_s = 100_000
        began = time.monotonic()
        for connection in (one, two):
            connection.sendall(b"z" * 20_000)
        for connection in (one, two):
            assert _receive(connection, 20_000) == b"z" * 20_000
        # Up and down overlap; the last byte goes up after 0.4 s at the earliest.
        assert 0.4 <= time.monotonic() - began < 5
