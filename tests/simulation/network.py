"""A broker and the wires to it, as the real transport behaves: clean sessions, numbered connections, wills.

Within a connection a tidy network keeps order and loses nothing, like TCP; what is in flight when the connection
breaks is lost. A silent wire holds packets back: they arrive late when it heals before either end has given the
connection up, and never otherwise. An untidy network stands for foreign brokers: it loses, repeats and reorders
within a connection too, and delivers what outlived one to the next.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from edge_mqtt.broker_bridge.protocol.access import Action, allowed
from edge_mqtt.broker_bridge.protocol.compression import MAGIC, decompress
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.topics import Topics, matches
from edge_mqtt.certs.identity import Identity
from tests.simulation.clock import Clock, Life
from tests.simulation.plan import BROKER_TRUST, KEEP_ALIVE_S, Manners

#: Silence that ends a connection, in keep alives, at either end.
SILENCE = (0.5, 1.5)
#: Seconds between attempts to connect.
BACKOFF_S = (0.3, 4.0)
#: Parts of the topics of what may be large: everything else goes before it, and of each other they take turns.
TAKE_TURNS = ("/jobs/", "/rpc/")
#: How often that is so here.
OVERTAKEN = 0.1
#: What the broker publishes when a connection breaks.
Testament = tuple[str, bytes]


class Client(Protocol):
    """Whom the network tells."""

    life: Life

    def connected(self) -> None:
        """Tell that the connection is up."""

    def disconnected(self) -> None:
        """Tell that the connection is down."""

    def received(self, topic: str, payload: bytes) -> None:
        """Hand over one packet."""

    def will(self, connection: int) -> Testament | None:
        """Return what the broker says when that connection breaks."""


@dataclass(eq=False)
class Session:
    """One connection. Each end learns of its end in its own time."""

    number: int
    incarnation: str
    will: Testament | None
    client_open: bool = True
    broker_open: bool = True
    #: When the newest packet in each direction arrives: in a tidy network nothing overtakes it.
    last: dict[str, float] = field(default_factory=lambda: {"up": 0.0, "down": 0.0})
    held: list[Callable[[], None]] = field(default_factory=list)


class Wire:
    """One party's way to the broker."""

    def __init__(self, network: Network, identity: Identity, subscriptions: tuple[str, ...]) -> None:
        self._network = network
        self._clock = network.clock
        self._chance = network.chance
        self.identity = identity
        self.subscriptions = subscriptions
        self.silent = False
        self._epoch = 0
        #: How many connections the present client has had.
        self.connection = 0
        self._client: Client | None = None
        self._incarnation = ""
        self.session: Session | None = None
        #: The connection that the broker still believes in; it may not be the client's any more.
        self.believed: Session | None = None

    # ------------------------------------------------------------ the client's side

    def start(self, client: Client, incarnation: str) -> None:
        """Begin connecting, for as long as ``client`` lives."""
        self._client, self._incarnation, self.connection, self.session = client, incarnation, 0, None
        self._dial()

    def stop(self, *, goodbye: bool = False) -> None:
        """Take note that the client's program is gone: the system closes its socket, which the broker sees.

        :param goodbye: it says so itself before, and leaves no will.
        """
        self._client = None
        session, self.session = self.session, None
        if session is not None:
            session.client_open = False
            if goodbye and not self.silent:
                session.will = None
            self._tell_broker(session)

    def send(self, topic: str, payload: bytes) -> bool:
        """Send; False, and nothing sent, without a connection."""
        session = self.session
        if session is None:
            return False
        self._network.carry(
            self, session, "up", lambda: self._network.arrived(self.identity, topic, payload), topic=topic
        )
        return True

    def _dial(self) -> None:
        if self._client is not None:
            self._client.life.after(self._chance.uniform(*BACKOFF_S), self._try)

    def _try(self) -> None:
        client = self._client
        if client is None or self.session is not None:
            return
        old = self.believed
        taken = old is not None and old.broker_open and old.incarnation != self._incarnation
        if self.silent or not self._network.up or taken:
            self._dial()
            return
        if old is not None:
            self.close_at_broker(old)
        self.connection += 1
        will = client.will(self.connection)
        self.session = self.believed = Session(self.connection, self._incarnation, will)
        self._network.trace("%s: connection %d is up", self.identity, self.connection)
        client.connected()

    # ------------------------------------------------------------ trouble

    def cut(self) -> None:
        """Break the connection; both ends see it."""
        session = self.session
        if session is not None:
            self._tell_broker(session)
            self.close_at_client(session)

    def go_silent(self) -> None:
        """Swallow every packet from now on. Each end gives the connection up when its patience ends."""
        self.silent = True
        self._epoch += 1
        epoch, session = self._epoch, self.believed
        if session is None:
            return
        for close in (self.close_at_client, self.close_at_broker):
            patience_s = self._chance.uniform(*SILENCE) * KEEP_ALIVE_S
            self._clock.after(patience_s, self._if_still(epoch, close, session))

    def _if_still(self, epoch: int, close: Callable[[Session], None], session: Session) -> Callable[[], None]:
        return lambda: close(session) if self.silent and self._epoch == epoch else None

    def heal(self) -> None:
        """Let packets through again; an end that had given up resets the other."""
        self.silent = False
        ours, theirs = self.session, self.believed
        if ours is not None and ours is theirs:
            held, ours.held = ours.held, []
            for deliver in held:
                deliver()
            return
        if theirs is not None:
            self._tell_broker(theirs)
        if ours is not None:
            self.close_at_client(ours)

    def close_at_client(self, session: Session) -> None:
        """Have the client see the end."""
        if session.client_open:
            session.client_open = False
            if self.session is session:
                self.session = None
                if self._client is not None and self._client.life.alive:
                    self._network.trace("%s: connection %d is down", self.identity, session.number)
                    self._client.disconnected()
                    self._dial()

    def close_at_broker(self, session: Session) -> None:
        """Have the broker see the end: it publishes the will."""
        if session.broker_open:
            session.broker_open = False
            if self.believed is session:
                self.believed = None
            if session.will is not None and self._network.up:
                self._network.arrived(self.identity, *session.will)

    def _tell_broker(self, session: Session) -> None:
        if self.silent:
            return
        # The last packets before the end still arrive, or do not.
        self._clock.after(self._chance.uniform(0.0, 0.2), lambda: self.close_at_broker(session))


class Network:
    """The broker inside the bridge, and everybody's wire to it."""

    def __init__(
        self, clock: Clock, chance: random.Random, manners: Manners, topics: Topics, trace: Callable[..., None]
    ) -> None:
        self.clock = clock
        self.chance = chance
        self.manners = manners
        self.trace = trace
        self._topics = topics
        self.wires: list[Wire] = []
        self.up = False
        self._bridge: Callable[[str, bytes], object] = lambda _topic, _payload: None
        #: Messages that the access table kept from the bridge.
        self.denied = 0

    def settle_down(self) -> None:
        """Lose, repeat and delay nothing any more."""
        self.manners = Manners(tidy=True, slow_s=0.6)

    def wire(self, identity: Identity, subscriptions: tuple[str, ...]) -> Wire:
        """Lay a wire."""
        wire = Wire(self, identity, subscriptions)
        self.wires.append(wire)
        return wire

    def open(self) -> None:
        """Listen."""
        self.up = True

    def subscribe(self, _filters: object, callback: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Hand everything that is for the bridge to ``callback`` (the in-process transport's router)."""
        loop = asyncio.get_running_loop()
        self._bridge = lambda topic, payload: loop.call_soon(callback, topic, payload)
        return lambda: None

    def close(self) -> None:
        """Die with the bridge: no will is published, clients see it unless their wire is silent."""
        self.up = False
        for wire in self.wires:
            session, wire.believed = wire.believed, None
            if session is not None:
                session.broker_open = False
                if not wire.silent:
                    wire.close_at_client(session)

    def arrived(self, identity: Identity, topic: str, payload: bytes) -> None:
        """Take a message of a client, if it may say that."""
        if not self.up:
            return
        if not allowed(identity, Action.PUBLISH, topic, self._topics):
            self.denied += 1
            return
        self.trace("%s -> %s: %s", identity, topic, Shown(payload))
        self._bridge(topic, payload)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Deliver a message of the bridge to whoever subscribes to its topic."""
        for wire in self.wires:
            session = wire.believed
            if session is None or not session.broker_open:
                continue
            if any(matches(topic_filter, topic) for topic_filter in wire.subscriptions):
                self.carry(wire, session, "down", self._delivery(wire, session, topic, payload), topic=topic)
        return True

    def publish_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> bool:
        """Deliver fragments of the bridge to whoever subscribes to their topic."""
        return all(self.publish(topic, fragment, qos=1, retain=False) for fragment in fragments)

    def _delivery(self, wire: Wire, session: Session, topic: str, payload: bytes) -> Callable[[], None]:
        def deliver() -> None:
            client = wire._client
            outlived = session is not wire.session and self.chance.random() >= self.manners.outlives
            if client is None or wire.session is None or outlived:
                return
            self.trace("%s <- %s: %s", wire.identity, topic, Shown(payload))
            client.received(topic, payload)

        return deliver

    def carry(self, wire: Wire, session: Session, direction: str, deliver: Callable[[], None], *, topic: str) -> None:
        """Take a packet to the other end, in the network's own manner."""
        manners, chance = self.manners, self.chance
        copies = 1
        if not manners.tidy and chance.random() >= BROKER_TRUST:
            copies = chance.choice([0, 0, 2])
        for _ in range(copies):
            arrival = self.clock.now + self._delay()
            if manners.tidy and any(part in topic for part in TAKE_TURNS) and chance.random() < OVERTAKEN:
                arrival += chance.uniform(0.0, manners.slow_s)
            elif manners.tidy:
                arrival = session.last[direction] = max(arrival, session.last[direction])
            self.clock.after(arrival - self.clock.now, lambda: self._arrive(wire, session, direction, deliver))

    def _delay(self) -> float:
        chance = self.chance
        return chance.uniform(0.5, self.manners.slow_s) if chance.random() < 0.02 else chance.uniform(0.01, 0.2)

    def _arrive(self, wire: Wire, session: Session, direction: str, deliver: Callable[[], None]) -> None:
        if wire.silent and session.client_open and session.broker_open:
            session.held.append(lambda: self._arrive(wire, session, direction, deliver))
            return
        there = session.broker_open if direction == "up" else session.client_open
        if (
            (there and not wire.silent)
            or (direction == "down" and self.manners.outlives and not wire.silent)
            or (direction == "up" and self.up and not wire.silent and self.chance.random() < self.manners.outlives)
        ):
            deliver()


class Shown:
    """A packet for people: its header, and how large its body is."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload

    def __str__(self) -> str:
        payload = self._payload
        if payload.startswith(MAGIC):
            payload = decompress(payload, MAX_MESSAGE_BYTES)
        header, newline, body = payload.partition(b"\n")
        return header.decode() + (f" + {len(body)} bytes" if newline else "")
