"""A running broker with parties of every kind, and a client that can misbehave as no MQTT library would."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.broker_bridge.broker.packets import Cursor, PacketSplitter, remaining_length
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, WorkerName
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context
from tests.support.fixed_context import FixedContext
from tests.support.scenario_transport import SUBSCRIPTIONS, TOPICS, BrokerThread, Recorder, will

VICTIM_NAME = WorkerName("victim")
ROGUE_NAME = WorkerName("rogue")
EXECUTOR_NAME = ExecutorName("main")
VICTIM = Identity(Role.WORKER, VICTIM_NAME)
ROGUE = Identity(Role.WORKER, ROGUE_NAME)
OPERATOR = Identity(Role.OPERATOR, "ann")
EXECUTOR = Identity(Role.EXECUTOR, EXECUTOR_NAME)
__all__ = ["SUBSCRIPTIONS", "TOPICS", "BrokerThread", "Recorder", "will"]


def packet(kind: int, flags: int, body: bytes) -> bytes:
    return bytes((kind << 4 | flags,)) + remaining_length(len(body)) + body


def text(value: str) -> bytes:
    encoded = value.encode()
    return len(encoded).to_bytes(2) + encoded


def connect_packet(
    client_id: str,
    *,
    incarnation: str = "one",
    keep_alive_s: int = 60,
    level: int = 4,
    clean: bool = True,
    will_topic: str | None = None,
) -> bytes:
    flags = 0x80 | (0x02 if clean else 0) | (0x2C if will_topic else 0)
    body = text("MQTT") + bytes((level, flags)) + keep_alive_s.to_bytes(2) + text(client_id)
    if will_topic:
        body += text(will_topic) + text("the will")
    return packet(1, 0, body + text(incarnation))


def subscribe_packet(*filters: str, qos: int = 1) -> bytes:
    return packet(8, 2, (1).to_bytes(2) + b"".join(text(f) + bytes((qos,)) for f in filters))


class RawClient:
    """Speaks WebSockets and TLS correctly, and MQTT as it is told."""

    def __init__(self, websocket: ClientConnection) -> None:
        self.websocket = websocket
        self._splitter = PacketSplitter()
        self._packets: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.websocket.close()

    def send(self, data: bytes) -> None:
        self.websocket.send(data)

    def packet(self, timeout_s: float = 10.0) -> bytes:
        while not self._packets:
            message = self.websocket.recv(timeout=timeout_s)
            assert isinstance(message, bytes)
            self._packets += self._splitter.feed(message)
        return self._packets.pop(0)

    def connect(self, client_id: str, **options: object) -> int:
        self.send(connect_packet(client_id, **options))  # type: ignore[arg-type]  # passed on as they come
        connack = self.packet()
        assert connack[0] == 0x20
        return connack[3]

    def subscribe(self, *filters: str) -> list[int]:
        self.send(subscribe_packet(*filters))
        suback = self.packet()
        assert suback[0] == 0x90
        return list(suback[4:])

    def message(self) -> tuple[str, bytes, int]:
        """Return topic, payload and flags of the next message; acknowledge it."""
        data = self.packet()
        assert data[0] >> 4 == 3, data[:20]
        cursor = Cursor(data)
        topic = cursor.text()
        if data[0] & 0b0110:
            self.send(packet(4, 0, cursor.take(2)))
        return topic, cursor.take(cursor.left), data[0] & 0x0F

    def drop(self) -> None:
        """Close the TCP connection without a word."""
        # Closing would wait for the thread that reads; and TLS is not to say goodbye either.
        socket.socket.shutdown(self.websocket.socket, socket.SHUT_RDWR)


class Site:
    """The broker, the centre that listens to everything, and a victim whose session must go on."""

    def __init__(
        self,
        directory: Path,
        caplog: pytest.LogCaptureFixture,
        *,
        timing: Timing | None = None,
        limits: Limits | None = None,
    ) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.thread = BrokerThread(
            directory / "certs", (VICTIM, ROGUE, OPERATOR, EXECUTOR), timing=timing, limits=limits
        )
        self.broker = self.thread.broker
        self.centre = InProcessTransport(self.broker.router, TOPICS.for_bridge())
        self.heard = Recorder()
        self.centre.start(self.heard)
        self.victim_heard = Recorder()
        self._transports: list[PahoTransport] = []
        self.victim = self.transport(VICTIM)
        self.victim.start(self.victim_heard)
        self.victim_heard.wait_event("connected")
        self._pings = 0
        other = Store(directory / "other")
        other.create(hosts=["localhost"], force=False, now=datetime.now(UTC))
        self.other_store = other

    def transport(
        self, identity: Identity, *, url: str | None = None, keep_alive_s: int = 60, incarnation: str = "one"
    ) -> PahoTransport:
        options = ConnectOptions(
            identity=identity,
            incarnation=incarnation,
            keep_alive_s=keep_alive_s,
            subscriptions=(TOPICS.control(WorkerName(identity.name)),) if identity.role is Role.WORKER else (),
        )
        context = self.context(identity)
        transport = PahoTransport(url or self.thread.url, FixedContext(context), options)
        self._transports.append(transport)
        return transport

    def context(self, identity: Identity) -> ssl.SSLContext:
        return client_context(load_credentials(self.thread.store.folder(identity)))

    def raw(self, identity: Identity) -> RawClient:
        return RawClient(
            connect(self.thread.url, ssl=self.context(identity), subprotocols=[Subprotocol("mqtt")], close_timeout=1)
        )

    def warnings(self) -> list[str]:
        """Return what was logged as a warning or worse, but for our own transports' reconnecting."""
        return [
            record.getMessage()
            for record in self._caplog.records
            if record.levelno >= logging.WARNING
            and ".transport." not in record.name
            and record.name != "websockets.client"
        ]

    def expect_one_warning(self, *parts: str) -> None:
        self.heard.wait(lambda: True)
        deadline = threading.Event()
        for _ in range(500):
            if self.warnings():
                break
            deadline.wait(0.01)
        (line,) = self.warnings()
        for part in parts:
            assert part in line, line
        assert "\n" not in line

    def expect_undisturbed_victim(self) -> None:
        """Exchange a message each way on the connection that the victim had from the start."""
        self._pings += 1
        ping = b"ping %d" % self._pings
        assert self.centre.publish(TOPICS.control(VICTIM_NAME), ping, qos=1)
        self.victim_heard.wait(lambda: (TOPICS.control(VICTIM_NAME), ping) in self.victim_heard.packets)
        assert self.victim.publish(TOPICS.results(VICTIM_NAME), ping, qos=1)
        self.heard.wait(lambda: (TOPICS.results(VICTIM_NAME), ping) in self.heard.packets)
        assert self.victim_heard.events == ["connected"]
        assert self.victim.connection == 1

    def close(self) -> None:
        for transport in self._transports:
            transport.stop()
        self.thread.close()
