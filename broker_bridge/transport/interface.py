"""What every transport does: connect, publish, subscribe, and say what happened.

A transport loses everything when its connection drops, on purpose: it never queues for later. Whoever hands
something over keeps it until it is acknowledged by a message of ours and sends it again after ``connected``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from edge_mqtt.broker_bridge.protocol.errors import OtherVersion
from edge_mqtt.broker_bridge.protocol.messages import Message


class RefusalReason(StrEnum):
    """Why a broker will not have us, however often we try."""

    #: [MQTT-3.2.2] return code 1, or messages of another version of our own protocol.
    PROTOCOL_VERSION = "protocol_version"
    #: Return code 2: our name is in use by somebody who is alive.
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


class Listener(Protocol):
    """Whom a transport tells. Every call comes from the transport's own thread and must return at once."""

    def connected(self) -> None:
        """Tell that the connection is up and every subscription is acknowledged."""

    def disconnected(self, reason: str) -> None:
        """Tell that the connection is down; the transport goes on trying."""

    def refused(self, refusal: Refusal) -> None:
        """Tell that the broker will not have us; the transport has stopped."""

    def received(self, topic: str, payload: bytes) -> None:
        """Hand over one packet."""


class Transport(Protocol):
    """A connection to a broker that is kept up for ever."""

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""

    def start(self, listener: Listener) -> None:
        """Begin connecting; return at once."""

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Send one packet; False, and nothing sent, while there is no connection. Thread-safe, never blocks."""

    def stop(self) -> None:
        """Say goodbye (no will is published) and end; return when it is done."""


#: Is told the topic of a packet that another version of our protocol has written, and which.
TellOther = Callable[[str, OtherVersion], None]
