"""The transport of a program that has the broker inside it: no socket, no serialisation, never down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Protocol

from edge_mqtt.broker_bridge.transport.interface import PacketReceiver

#: Receives topic and payload.
Receive = Callable[[str, bytes], None]


class Router(Protocol):
    """What a broker offers to the program that it runs in. Thread-safe; callbacks come from its own thread."""

    def subscribe(self, filters: Sequence[str], callback: Receive) -> Callable[[], None]:
        """Call ``callback`` with everything that matches, retained messages first; return what ends it."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Deliver one packet; False when the broker is not running."""

    def publish_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> bool:
        """Deliver a message in fragments, to each receiver in its turn; False when the broker is not running."""


class InProcessTransport:
    """A connection to the broker in this process.

    :param router: the broker.
    :param subscriptions: topic filters to receive.
    """

    def __init__(self, router: Router, subscriptions: Sequence[str]) -> None:
        self._router = router
        self._subscriptions = tuple(subscriptions)
        self._receiver: PacketReceiver | None = None
        self._unsubscribe: Callable[[], None] | None = None
        self._connection = 0
        self._up = False
        #: What came before the receiver was told that it is connected; None at any other time.
        self._early: list[tuple[str, bytes]] | None = None
        self._lock = threading.RLock()

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""
        return self._connection

    def start(self, receiver: PacketReceiver) -> None:
        """Subscribe and tell ``receiver`` at once."""
        with self._lock:
            self._receiver = receiver
            early: list[tuple[str, bytes]] = []
            self._early = early
            self._unsubscribe = self._router.subscribe(self._subscriptions, self._receive)
            self._connection += 1
            self._up = True
            receiver.connected()
            self._early = None
            for topic, payload in early:
                receiver.received(topic, payload)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Hand one packet to the broker; False before start and after stop."""
        return self._up and self._router.publish(topic, payload, qos=qos, retain=retain)

    def publish_large(self, topic: str, fragments: Sequence[bytes], *, errand: Hashable) -> bool:
        """Hand a message in fragments to the broker; False before start and after stop."""
        return self._up and self._router.publish_large(topic, fragments, errand)

    @property
    def is_busy(self) -> bool:
        """Nothing waits here: the broker has a queue for each client."""
        return False

    def stop(self) -> None:
        """Receive nothing more."""
        self._up = False
        unsubscribe, self._unsubscribe = self._unsubscribe, None
        if unsubscribe is not None:
            unsubscribe()

    def _receive(self, topic: str, payload: bytes) -> None:
        with self._lock:
            if self._early is not None:
                self._early.append((topic, payload))
                return
        if self._up and self._receiver is not None:
            self._receiver.received(topic, payload)
