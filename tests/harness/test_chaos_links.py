"""A link that several faults make bad is good again only after the last of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.chaos.bad_links import SharedLink
from tests.chaos.faults import Kind
from tests.support.bad_link import BadLink

PATIENCE_S = 20.0


@pytest.fixture
def target() -> Iterator[socket.socket]:
    """A listening socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(PATIENCE_S)
        yield listening


@pytest.fixture
def link(target: socket.socket) -> Iterator[BadLink]:
    """A link to it."""
    with BadLink(target.getsockname()[1]) as made:
        yield made


def connect(link: BadLink) -> socket.socket:
    return socket.create_connection(("127.0.0.1", link.port), timeout=PATIENCE_S)


def assert_forwards(link: BadLink, target: socket.socket) -> None:
    with connect(link) as near, target.accept()[0] as far:
        near.sendall(b"x")
        far.settimeout(PATIENCE_S)
        assert far.recv(1) == b"x"


def test_a_cut_within_an_outage_does_not_end_it(link: BadLink, target: socket.socket) -> None:
    shared = SharedLink(link)
    shared.begin(Kind.CUT)
    shared.begin(Kind.OUTAGE)
    shared.end(Kind.CUT)
    with pytest.raises(ConnectionRefusedError):
        connect(link)
    shared.end(Kind.OUTAGE)
    assert_forwards(link, target)


def test_a_delay_that_ends_leaves_a_black_hole(link: BadLink, target: socket.socket) -> None:
    shared = SharedLink(link)
    shared.begin(Kind.DELAY)
    assert link.delay_s > 0
    with connect(link) as near, target.accept()[0] as far:
        shared.begin(Kind.BLACKHOLE)
        shared.end(Kind.DELAY)
        assert link.delay_s == 0
        near.sendall(b"x")
        far.settimeout(0.2)
        with pytest.raises(TimeoutError):
            far.recv(1)
        shared.end(Kind.BLACKHOLE)
        far.settimeout(PATIENCE_S)
        assert far.recv(1) == b"x"


def test_a_half_open_link_carries_bytes_in_one_direction(link: BadLink, target: socket.socket) -> None:
    shared = SharedLink(link)
    with connect(link) as near, target.accept()[0] as far:
        shared.begin(Kind.HALF_OPEN)
        near.sendall(b"up")
        far.settimeout(PATIENCE_S)
        assert far.recv(2) == b"up"
        far.sendall(b"down")
        near.settimeout(0.2)
        with pytest.raises(TimeoutError):
            near.recv(4)


def test_a_torn_link_resets_its_connection_once(link: BadLink, target: socket.socket) -> None:
    SharedLink(link).begin(Kind.TEAR)
    with connect(link) as near, target.accept()[0]:
        near.sendall(b"x" * 4096)
        with pytest.raises(ConnectionResetError):
            near.recv(1)
    assert_forwards(link, target)
