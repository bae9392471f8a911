"""A broker and a transport in memory: for unit tests of whatever speaks MQTT, ours and other people's.

Delivery is synchronous: when ``publish`` returns, everything that it set off has happened, in order. Connections are
lost and come back only when the test says so.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial

from edge_mqtt.broker_bridge.protocol.codec import encode
from edge_mqtt.broker_bridge.protocol.topics import matches
from edge_mqtt.broker_bridge.transport.interface import PacketReceiver, Refusal, Will


@dataclass(frozen=True, kw_only=True, slots=True)
class Packet:
    """One publish as the broker saw it."""

    #: Client id; empty for one that came in process.
    sender: str
    topic: str
    payload: bytes
    qos: int
    retain: bool


#: Tells whether a packet is lost on its way.
Loses = Callable[[Packet], bool]


class _Client:
    """What the broker knows of one client."""

    def __init__(self, transport: MemoryTransport) -> None:
        self.transport = transport
        self.will: Will | None = None
        self.up = False
        #: Packets vanish both ways, and neither side notices.
        self.partitioned = False


class MemoryBroker:
    """Retained messages, wills, topic filters, and the faults of a real link on demand."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._clients: dict[str, _Client] = {}
        self._inside: list[tuple[tuple[str, ...], Callable[[str, bytes], None]]] = []
        self._retained: dict[str, bytes] = {}
        self._queue: deque[Callable[[], None]] = deque()
        self._draining = False
        self._running = True
        self._refusals: dict[str, Refusal] = {}
        self._loses: Loses | None = None
        #: Every packet that reached the broker, in order.
        self.published: list[Packet] = []

    # ------------------------------------------------------------ what the test controls

    def lose(self, rule: Loses | None) -> None:
        """Lose the packets for which ``rule`` says so, on their way to the broker; None loses none."""
        self._loses = rule

    def partition(self, client_id: str) -> None:
        """Let packets from and to this client vanish without either side noticing, as on a half-open link."""
        with self._lock:
            self._clients[client_id].partitioned = True

    def heal(self, client_id: str) -> None:
        """End the partition; what vanished stays lost."""
        with self._lock:
            self._clients[client_id].partitioned = False

    def cut(self, client_id: str, reason: str = "the link was cut") -> None:
        """Break this client's connection: its will is published, it is told and stays down."""
        with self._lock:
            self._drop(self._clients[client_id], goodbye=False, reason=reason)
            self._drain()

    def restore(self, client_id: str) -> None:
        """Let this client connect again."""
        with self._lock:
            self._connect(self._clients[client_id])
            self._drain()

    def stop(self) -> None:
        """Die: every client loses its connection, no will is published, retained messages are gone."""
        with self._lock:
            self._running = False
            self._retained.clear()
            for client in self._clients.values():
                client.will = None
                self._drop(client, goodbye=False, reason="the broker is gone")
            self._drain()

    def start(self) -> None:
        """Run again: every client connects again."""
        with self._lock:
            self._running = True
            for client in list(self._clients.values()):
                self._connect(client)
            self._drain()

    def refuse(self, client_id: str, refusal: Refusal) -> None:
        """Refuse this client's next and every later attempt to connect."""
        self._refusals[client_id] = refusal

    def retained(self, topic: str) -> bytes | None:
        """Return the retained message of ``topic``."""
        return self._retained.get(topic)

    # ------------------------------------------------------------ Router, for InProcessTransport

    def subscribe(self, filters: Sequence[str], callback: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Subscribe in process; return what ends it."""
        entry = (tuple(filters), callback)
        with self._lock:
            self._inside.append(entry)
            self._send_retained(entry[0], callback)
            self._drain()

        def unsubscribe() -> None:
            with self._lock:
                if entry in self._inside:
                    self._inside.remove(entry)

        return unsubscribe

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Publish in process; False when the broker is stopped."""
        return self.accept(Packet(sender="", topic=topic, payload=payload, qos=qos, retain=retain))

    def publish_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> bool:  # noqa: ARG002 -- the router's signature
        """Publish fragments in process, at once; False when the broker is stopped."""
        return all(self.publish(topic, fragment, qos=1, retain=False) for fragment in fragments)

    # ------------------------------------------------------------ the transports' side

    def accept(self, packet: Packet) -> bool:
        """Take a packet from its sender; False when the sender has no connection."""
        with self._lock:
            client = self._clients.get(packet.sender)
            if not self._running or (packet.sender and (client is None or not client.up)):
                return False
            if (client is not None and client.partitioned) or (self._loses is not None and self._loses(packet)):
                return True
            self._queue.append(lambda: self._deliver(packet))
            self._drain()
            return True

    def attach(self, transport: MemoryTransport) -> None:
        """Connect a transport for the first time."""
        with self._lock:
            client = self._clients[transport.client_id] = _Client(transport)
            self._connect(client)
            self._drain()

    def detach(self, transport: MemoryTransport) -> None:
        """Say goodbye: no will."""
        with self._lock:
            client = self._clients.pop(transport.client_id, None)
            if client is not None:
                self._drop(client, goodbye=True, reason="")
                self._drain()

    def _connect(self, client: _Client) -> None:
        transport = client.transport
        refusal = self._refusals.get(transport.client_id)
        if refusal is not None:
            self._clients.pop(transport.client_id, None)
            self._queue.append(lambda: transport.told_refused(refusal))
            return
        if client.up or not self._running:
            return
        client.up, client.partitioned = True, False
        client.will = transport.next_connection()
        self._queue.append(transport.told_connected)
        self._send_retained(transport.subscriptions, transport.told)

    def _drop(self, client: _Client, *, goodbye: bool, reason: str) -> None:
        if not client.up:
            return
        client.up = False
        will, client.will = client.will, None
        transport = client.transport
        if not goodbye:
            self._queue.append(lambda: transport.told_disconnected(reason))
        if will is not None and not goodbye:
            (payload,) = encode(will.message)
            packet = Packet(sender=transport.client_id, topic=will.topic, payload=payload, qos=1, retain=True)
            self._queue.append(lambda: self._deliver(packet))

    def _send_retained(self, filters: Sequence[str], tell: Callable[[str, bytes], None]) -> None:
        for topic, payload in self._retained.items():
            if any(matches(topic_filter, topic) for topic_filter in filters):
                self._queue.append(partial(tell, topic, payload))

    def _deliver(self, packet: Packet) -> None:
        self.published.append(packet)
        if packet.retain and packet.payload:
            self._retained[packet.topic] = packet.payload
        elif packet.retain:
            self._retained.pop(packet.topic, None)
        for filters, callback in list(self._inside):
            if any(matches(topic_filter, packet.topic) for topic_filter in filters):
                callback(packet.topic, packet.payload)
        for client in list(self._clients.values()):
            wanted = any(matches(topic_filter, packet.topic) for topic_filter in client.transport.subscriptions)
            if wanted and client.up and not client.partitioned:
                client.transport.told(packet.topic, packet.payload)

    def _drain(self) -> None:
        # A receiver that publishes while it is told something only adds to the queue: order is kept and the
        # stack stays flat.
        if self._draining:
            return
        self._draining = True
        try:
            while self._queue:
                self._queue.popleft()()
        finally:
            self._draining = False


class MemoryTransport:
    """A connection to a :class:`MemoryBroker`.

    :param client_id: this client's name.
    :param subscriptions: topic filters to receive.
    :param will: returns the will for the given connection number.
    """

    def __init__(
        self,
        broker: MemoryBroker,
        client_id: str,
        subscriptions: Sequence[str] = (),
        will: Callable[[int], Will | None] = lambda _: None,
    ) -> None:
        self.client_id = client_id
        self.subscriptions = tuple(subscriptions)
        self._broker = broker
        self._will = will
        self._receiver: PacketReceiver | None = None
        self._connection = 0

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""
        return self._connection

    def start(self, receiver: PacketReceiver) -> None:
        """Connect and tell ``receiver`` before this returns."""
        self._receiver = receiver
        self._broker.attach(self)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Send one packet; everything that it sets off has happened when this returns."""
        return self._broker.accept(
            Packet(sender=self.client_id, topic=topic, payload=bytes(payload), qos=qos, retain=retain)
        )

    def publish_large(self, topic: str, fragments: Sequence[bytes], *, errand: Hashable) -> bool:  # noqa: ARG002 -- the transport's signature
        """Send fragments, at once: there is no link that they would hold up."""
        return all(self.publish(topic, fragment, qos=1) for fragment in fragments)

    @property
    def is_busy(self) -> bool:
        """Nothing ever waits."""
        return False

    def stop(self) -> None:
        """Say goodbye."""
        self._broker.detach(self)

    # ------------------------------------------------------------ the broker's side

    def next_connection(self) -> Will | None:
        """Count one more connection and return its will."""
        self._connection += 1
        return self._will(self._connection)

    def told_connected(self) -> None:
        """Pass on."""
        if self._receiver is not None:
            self._receiver.connected()

    def told_disconnected(self, reason: str) -> None:
        """Pass on."""
        if self._receiver is not None:
            self._receiver.disconnected(reason)

    def told_refused(self, refusal: Refusal) -> None:
        """Pass on."""
        if self._receiver is not None:
            self._receiver.refused(refusal)

    def told(self, topic: str, payload: bytes) -> None:
        """Pass on."""
        if self._receiver is not None:
            self._receiver.received(topic, payload)
