"""A client with a certificate of the site's that says what it is told to say, and remembers what it hears."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from edge_mqtt.broker_bridge.protocol.codec import Decoder
from edge_mqtt.broker_bridge.protocol.messages import Message
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.identity import Identity
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import client_context
from tests.support.bridge_program import Site
from tests.support.fixed_context import FixedContext
from tests.support.scenario_transport import Recorder


class FreeClient:
    """Connected to the bridge of a site when it is made."""

    def __init__(self, site: Site, port: int, identity: Identity, *subscriptions: str) -> None:
        site.certificates.issue(identity, force=False, now=datetime.now(UTC))
        options = ConnectOptions(
            identity=identity, incarnation=uuid.uuid4().hex, keep_alive_s=60, subscriptions=subscriptions
        )
        context = client_context(load_credentials(site.certificates.folder(identity)))
        self._transport = PahoTransport(f"wss://127.0.0.1:{port}/mqtt", FixedContext(context), options)
        self._heard = Recorder()
        self._transport.start(self._heard)
        self._heard.wait_event("connected")

    def say(self, topic: str, packet: bytes) -> None:
        assert self._transport.publish(topic, packet, qos=1)

    def heard(self, count: int) -> list[tuple[str, Message | None]]:
        """Return the first ``count`` messages, and their topics."""
        return [(topic, Decoder().feed(topic, packet)) for topic, packet in self._heard.wait_packets(count)]

    def stop(self) -> None:
        self._transport.stop()
