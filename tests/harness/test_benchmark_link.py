"""The benchmark's link counts what really crosses a TCP connection."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from tests.benchmarks.executors.link import CountingLink


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(bytes(1000))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def link() -> Iterator[CountingLink]:
    with HTTPServer(("127.0.0.1", 0), _Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with CountingLink(server.server_port) as link:
            yield link
        server.shutdown()
        thread.join()


def test_requests_on_one_connection_are_counted_one_by_one(link: CountingLink) -> None:
    with httpx.Client(trust_env=False) as client:
        for _ in range(3):
            client.put(f"http://127.0.0.1:{link.port}/thing", content=bytes(500)).raise_for_status()
    traffic = link.traffic
    assert (traffic.requests, traffic.connections) == (3, 1)
    assert 1500 < traffic.bytes_up < 2500
    assert 3000 < traffic.bytes_down < 4000


def test_a_write_that_is_no_http_is_a_write_all_the_same(link: CountingLink) -> None:
    with socket.create_connection(("127.0.0.1", link.port)) as connection:
        connection.sendall(b"\x10\x00")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(1000):
            pass
    assert (link.traffic.writes, link.traffic.requests, link.traffic.bytes_up) == (1, 0, 2)


def test_a_far_link_takes_its_round_trip(link: CountingLink) -> None:
    link.make_wan(rtt_s=0.2, bytes_per_s=None)
    with httpx.Client(trust_env=False) as client:
        answer = client.put(f"http://127.0.0.1:{link.port}/thing", content=b"x")
    assert answer.elapsed.total_seconds() >= 0.2
