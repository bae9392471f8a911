"""What every transport does: connect, publish, subscribe, and say what happened.

A transport loses everything when its connection is lost, on purpose: it never queues for later. The sender keeps what
it sends until a message of ours acknowledges it, and sends it again after ``connected``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from edge_mqtt.broker_bridge.protocol.messages import Message


class RefusalReason(StrEnum):
    """Why a broker does not accept us, however often we try."""

    #: [MQTT-3.2.2] return code 1, or messages of another version of our own protocol.
    PROTOCOL_VERSION = "protocol_version"
    #: Return code 2: our name is in use by another program that is alive.
    NAME_IN_USE = "name_in_use"
    #: Return code 5, or a TLS alert: our certificate or our client id is not accepted.
    NOT_AUTHORIZED = "not_authorized"
    #: The server's certificate is not from our authority or not for that host.
    SERVER_CERTIFICATE = "server_certificate"


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """A refusal and one line that says what to do about it."""

    reason: RefusalReason
    message: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Will:
    """What the broker publishes, retained, when the connection ends without a goodbye [MQTT-3.1.2-8]."""

    topic: str
    message: Message


class PacketReceiver(Protocol):
    """What a transport calls, as described at :class:`Transport`. Every call must return at once."""

    def connected(self) -> None:
        """The connection is up and every subscription is acknowledged."""

    def disconnected(self, reason: str) -> None:
        """The connection is lost; the transport goes on trying."""

    def refused(self, refusal: Refusal) -> None:
        """The broker does not accept us; the transport has stopped."""

    def received(self, topic: str, payload: bytes) -> None:
        """One packet has arrived."""


class Transport(Protocol):
    """A connection to a broker that is kept up for ever.

    ``start`` is called once, then ``publish`` from any thread and as often as you like, then ``stop`` once. From
    ``start`` on the receiver is called, never twice at a time: ``connected``, then ``received`` for each packet of
    the subscriptions, ``disconnected``, and so on with the next connection; ``refused`` is the last call of all.
    ``received`` comes only between ``connected`` and ``disconnected``, and for the packets of one sender in the order
    in which they were published, but for large messages: everything else goes before them, and they take turns. The
    fragments of one stay in order. The calls come from a thread of the transport (paho), from the broker's event loop
    (in process; the first ``connected`` from within ``start``), or from the thread that caused them (memory). The
    receiver may publish in each of them, and must not raise: where that is noticed it is logged and changes nothing.

    Nothing is durable. What ``publish`` took may be lost with the connection, whatever its QoS, and so may what the
    broker has for us: both sides repeat it on the next connection until a message of ours acknowledges it. When the
    connection is lost without ``stop``, the broker publishes the will of that connection. Once ``start`` has returned
    nothing is raised: errors of network and TLS end a connection and are reasons of ``disconnected`` or ``refused``.
    """

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""

    def start(self, receiver: PacketReceiver) -> None:
        """Begin connecting; return at once."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Send one packet; False, and nothing sent, while there is no connection. Thread-safe, never blocks."""

    def publish_large(self, topic: str, fragments: Sequence[bytes], *, errand: Hashable) -> bool:
        """Send a message in fragments when its turn comes; False, and nothing sent, while there is no connection.

        Thread-safe, never blocks. While another one with its errand is not sent whole it is not sent again.
        """

    @property
    def is_busy(self) -> bool:
        """Whether large messages wait or are on the way."""

    def stop(self) -> None:
        """Say goodbye (no will is published) and end; return when it is done and nothing more will be told."""
