"""Worlds in which a transport lives: memory, in process, and paho with the embedded broker over real WSS."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Presence, WorkerState
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.broker_bridge.transport.interface import Refusal, Transport, Will
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import client_context, server_context
from tests.support.fixed_context import FixedContext

TIMEOUT_S = 15.0
TOPICS = Topics()
WORKER_NAME = WorkerName("lab-3")
WORKER = Identity(Role.WORKER, WORKER_NAME)


class Recorder:
    """Remembers what a transport tells, and lets a test wait for it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.packets: list[tuple[str, bytes]] = []
        self.refusal: Refusal | None = None
        self._changed = threading.Condition()

    def _note(self, change: Callable[[], object]) -> None:
        with self._changed:
            change()
            self._changed.notify_all()

    def connected(self) -> None:
        self._note(lambda: self.events.append("connected"))

    def disconnected(self, reason: str) -> None:
        assert reason
        self._note(lambda: self.events.append("disconnected"))

    def refused(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self._note(lambda: self.events.append("refused"))

    def received(self, topic: str, payload: bytes) -> None:
        assert "connected" in self.events
        self._note(lambda: self.packets.append((topic, payload)))

    def wait(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, TIMEOUT_S), (self.events, self.packets[-3:], self.refusal)

    def wait_event(self, event: str, count: int = 1) -> None:
        self.wait(lambda: self.events.count(event) >= count)

    def wait_packets(self, count: int) -> list[tuple[str, bytes]]:
        self.wait(lambda: len(self.packets) >= count)
        return self.packets


class World(Protocol):
    """Makes transports that reach one broker."""

    def worker(self) -> Transport: ...

    def centre(self) -> Transport: ...

    def cut(self) -> None: ...

    def restore(self) -> None: ...

    def close(self) -> None: ...


def will(connection: int) -> Will:
    message = Presence(incarnation="i", connection=connection, state=WorkerState.OFFLINE)
    return Will(topic=TOPICS.presence(WORKER_NAME), message=message)


SUBSCRIPTIONS = (TOPICS.assignments(WORKER_NAME), TOPICS.control(WORKER_NAME))


class MemoryWorld:
    def __init__(self, _directory: Path) -> None:
        self.broker = MemoryBroker()

    def worker(self) -> Transport:
        return MemoryTransport(self.broker, WORKER.client_id, SUBSCRIPTIONS, will)

    def centre(self) -> Transport:
        return InProcessTransport(self.broker, TOPICS.for_bridge())

    def cut(self) -> None:
        self.broker.cut(WORKER.client_id)

    def restore(self) -> None:
        self.broker.restore(WORKER.client_id)

    def close(self) -> None:
        self.broker.stop()


class BrokerThread:
    """An embedded broker with certificates of its own, in an event loop of its own."""

    def __init__(
        self,
        directory: Path,
        parties: Sequence[Identity] = (WORKER,),
        *,
        port: int = 0,
        timing: Timing | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.store = Store(directory)
        now = datetime.now(UTC)
        if not directory.joinpath("bridge").exists():
            self.store.create(hosts=["localhost", "127.0.0.1"], force=False, now=now)
        for party in parties:
            self.store.issue(party, force=False, now=now)
        bridge = load_credentials(directory / "bridge")
        self.broker = EmbeddedBroker(
            ssl_contexts=FixedContext(server_context(bridge)),
            topics=TOPICS,
            host="127.0.0.1",
            port=port,
            timing=timing,
            limits=limits,
        )
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test broker")
        self._thread.start()
        self.run(self.broker.start())
        self.url = f"wss://localhost:{self.broker.port}/mqtt"

    def transport(self, identity: Identity, options: ConnectOptions) -> PahoTransport:
        party = load_credentials(self.store.folder(identity))
        return PahoTransport(self.url, FixedContext(client_context(party)), options)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(TIMEOUT_S)

    def close(self) -> None:
        self.run(self.broker.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(TIMEOUT_S)
        self.loop.close()


class WssWorld:
    def __init__(self, directory: Path) -> None:
        self.thread = BrokerThread(directory)

    def worker(self) -> Transport:
        return self.thread.transport(
            WORKER,
            ConnectOptions(
                identity=WORKER, incarnation="one", keep_alive_s=60, subscriptions=SUBSCRIPTIONS, will=will
            ),
        )

    def centre(self) -> Transport:
        return InProcessTransport(self.thread.broker.router, TOPICS.for_bridge())

    def cut(self) -> None:
        listener = self.thread.broker._listener
        assert listener is not None
        live = listener._live[WORKER.client_id]
        self.thread.loop.call_soon_threadsafe(live.websocket.transport.abort)

    def restore(self) -> None:
        """It comes back by itself."""

    def close(self) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while self.thread.broker.connections and time.monotonic() < deadline:
            time.sleep(0.01)
        self.thread.close()
