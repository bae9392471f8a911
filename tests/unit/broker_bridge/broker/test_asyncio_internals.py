"""The listener's end of a TLS connection hands out what was received, and then says that there is no more."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.broker.asyncio_internals import TlsObject
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context, server_context

WORKER = Identity(Role.WORKER, "lab-3")


class Pair:
    """Both ends of a connection in memory, their handshake done."""

    def __init__(self, folder: Path) -> None:
        store, now = Store(folder), datetime.now(UTC)
        store.create(hosts=["localhost"], force=False, now=now)
        store.issue(WORKER, hosts=(), days=1, force=False, now=now)
        at_server = server_context(load_credentials(store.folder(Identity(Role.BRIDGE, "bridge"))))
        at_server.sslobject_class = TlsObject
        at_client = client_context(load_credentials(store.folder(WORKER)))
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = at_server.wrap_bio(self.to_server, self.to_client, server_side=True)
        assert isinstance(server, TlsObject)
        self.server = server
        self.server.incoming, self.server.outgoing = self.to_server, self.to_client
        self.client = at_client.wrap_bio(self.to_client, self.to_server, server_hostname="localhost")
        for end in (self.client, self.server, self.client, self.server):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue

    def cut(self, at: int) -> bytes:
        """Take back what is on its way to the server from some byte on."""
        data = self.to_server.read()
        self.to_server.write(data[:at])
        return data[at:]


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path / "certs")


def test_nothing_is_read_before_something_is_received(pair: Pair) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.read(100)
    pair.client.write(b"hello")
    assert pair.server.read(100) == b"hello"
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.read(100)


def test_what_is_left_of_a_record_is_read_though_nothing_more_is_received(pair: Pair) -> None:
    pair.client.write(b"hello")
    pair.client.write(b"you")
    assert [pair.server.read(4), pair.server.read(4), pair.server.read(4)] == [b"hell", b"o", b"you"]


def test_a_record_that_comes_in_two_parts_is_read_when_it_is_whole(pair: Pair) -> None:
    pair.client.write(b"hello")
    rest = pair.cut(9)
    for _ in range(2):
        with pytest.raises(ssl.SSLWantReadError):
            pair.server.read(100)
    pair.to_server.write(rest)
    assert pair.server.read(100) == b"hello"


def test_a_buffer_is_filled_with_what_is_received(pair: Pair) -> None:
    pair.client.write(b"hello")
    buffer = bytearray(8)
    assert (pair.server.read(8, buffer), bytes(buffer)) == (5, b"hello\0\0\0")


def test_the_end_is_told_behind_the_last_byte(pair: Pair) -> None:
    pair.client.write(b"hello")
    pair.to_server.write_eof()
    assert pair.server.read(100) == b"hello"
    with pytest.raises(ssl.SSLEOFError):
        pair.server.read(100)


def test_a_farewell_is_told_behind_the_last_byte(pair: Pair) -> None:
    pair.client.write(b"hello")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    assert [pair.server.read(100), pair.server.read(100)] == [b"hello", b""]
