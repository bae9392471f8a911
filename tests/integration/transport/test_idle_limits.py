"""A proxy that ends idle connections, between a program and the bridge."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.broker_bridge.transport.timing import Timing
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import client_context
from tests.support.bad_link import BadLink
from tests.support.fixed_context import FixedContext
from tests.support.scenario_transport import SUBSCRIPTIONS, WORKER, BrokerThread, Recorder

#: Seconds without a byte after which the proxy ends a connection.
IDLE_S = 3.0


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[BrokerThread, BadLink]]:
    thread = BrokerThread(tmp_path / "certs")
    with BadLink(thread.broker.port) as link:
        link.idle_s = IDLE_S
        yield thread, link
    thread.close()


def connect(proxy: tuple[BrokerThread, BadLink], keep_alive_s: int) -> tuple[PahoTransport, Recorder]:
    thread, link = proxy
    options = ConnectOptions(
        identity=WORKER,
        incarnation="one",
        keep_alive_s=keep_alive_s,
        subscriptions=SUBSCRIPTIONS,
        timing=Timing(first_wait_s=0.1, sound_after_s=0.5, shortest_idle_limit_s=1.0),
    )
    context = client_context(load_credentials(thread.store.folder(WORKER)))
    transport, recorder = (
        PahoTransport(f"wss://localhost:{link.port}/mqtt", FixedContext(context), options),
        Recorder(),
    )
    transport.start(recorder)
    return transport, recorder


def test_a_program_learns_the_idle_limit_of_a_proxy_from_two_ends_and_says_so_once(
    proxy: tuple[BrokerThread, BadLink], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="edge_mqtt")
    transport, recorder = connect(proxy, keep_alive_s=60)
    try:
        recorder.wait_event("connected", 3)
        # Longer than the proxy's patience, twice over.
        time.sleep(2.5 * IDLE_S)
        assert recorder.events.count("connected") == 3
        assert proxy[1].idled_out == 2
    finally:
        transport.stop()
    (said,) = [record.getMessage() for record in caplog.records if "of silence" in record.getMessage()]
    assert "ended twice after 3 s of silence" in said
    assert "every 2 s from now on" in said


def test_a_keep_alive_below_the_idle_limit_keeps_the_connection(proxy: tuple[BrokerThread, BadLink]) -> None:
    transport, recorder = connect(proxy, keep_alive_s=1)
    try:
        recorder.wait_event("connected")
        time.sleep(2.5 * IDLE_S)
        assert (recorder.events, proxy[1].idled_out) == (["connected"], 0)
    finally:
        transport.stop()
