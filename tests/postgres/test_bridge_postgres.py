"""``edge-bridge`` with its ledger on PostgreSQL: one at a time, and one that has lost its ledger stops."""

from __future__ import annotations

import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.bridge_program import Site, free_port, wait_until_healthy


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    place = Site(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.communicate()


def test_a_second_bridge_is_refused_until_the_first_is_killed(site: Site, url: str) -> None:
    health_port = free_port()
    first = site.start("--ledger-url", url, health_port=health_port)
    wait_until_healthy(health_port)
    line = site.refusal("--ledger-url", url)
    assert "is in use by another edge-bridge: end that one" in line
    assert str(sa.make_url(url).password) not in line
    wait_until_healthy(health_port)
    first.send_signal(signal.SIGKILL)
    first.wait()
    # What a service manager does until the server has noticed.
    deadline = time.monotonic() + 60
    while True:
        second = site.start("--ledger-url", url, health_port=health_port)
        while second.poll() is None and not _listens(health_port):
            time.sleep(0.05)
        if second.poll() is None:
            break
        assert (second.returncode, time.monotonic() < deadline) == (2, True)
    wait_until_healthy(health_port)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
