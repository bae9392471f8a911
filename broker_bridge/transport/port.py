"""The port that every transport fills, and the channel that speaks messages over it.

A transport loses everything when its connection drops, on purpose: it never queues for later. Whoever hands
something over keeps it until it is acknowledged by a message of ours and sends it again after ``connected``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.delivery import qos_of
from edge_mqtt.broker_bridge.protocol.errors import OtherVersion, ProtocolError, UnsupportedVersion
from edge_mqtt.broker_bridge.protocol.messages import PROTOCOL_VERSION, ErrorReply, Message

log = logging.getLogger(__name__)


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


class MessageListener(Protocol):
    """Whom a channel tells. Calls come from the transport's thread."""

    def connected(self) -> None:
        """Tell that the connection is up."""

    def disconnected(self, reason: str) -> None:
        """Tell that it is down."""

    def refused(self, refusal: Refusal) -> None:
        """Tell that it will never be up, or be of use; the listener is told nothing more, and stops the channel."""

    def received(self, topic: str, message: Message) -> None:
        """Hand over one message."""


class MessageChannel:
    """Speaks messages over a transport: encodes, chooses the QoS, puts fragments together, drops garbage loudly."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._decoder = Decoder()
        self._listener: MessageListener | None = None
        self._tell_other: TellOther | None = None
        #: Packets that were not ours or not understood since the start.
        self.rejected = 0

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""
        return self._transport.connection

    def start(self, listener: MessageListener, *, tell_other: TellOther | None = None) -> None:
        """Begin connecting and tell ``listener``.

        :param tell_other: is told of packets of another protocol version; None for those who speak with the bridge
            only: for them that is a refusal.
        """
        self._listener = listener
        self._tell_other = tell_other
        self._transport.start(self)

    def stop(self) -> None:
        """End the connection."""
        self._transport.stop()

    def send(self, topic: str, message: Message, *, retain: bool = False) -> bool:
        """Send ``message``; False while there is no connection.

        :raises MessageTooLarge: it is over the limit of a message.
        """
        return self.send_counted(topic, message, retain=retain) > 0

    def send_counted(self, topic: str, message: Message, *, retain: bool = False) -> int:
        """Send ``message``; return its bytes as they travel, 0 while there is no connection.

        :raises MessageTooLarge: it is over the limit of a message.
        """
        packets = encode(message)
        qos = qos_of(message.kind)
        is_sent = all(self._transport.publish(topic, packet, qos=qos, retain=retain) for packet in packets)
        return sum(map(len, packets)) if is_sent else 0

    def connected(self) -> None:
        """Pass on, with no fragments left from the connection before."""
        self._decoder = Decoder()
        if self._listener is not None:
            self._listener.connected()

    def disconnected(self, reason: str) -> None:
        """Pass on."""
        if self._listener is not None:
            self._listener.disconnected(reason)

    def refused(self, refusal: Refusal) -> None:
        """Pass on."""
        if self._listener is not None:
            self._listener.refused(refusal)

    def received(self, topic: str, payload: bytes) -> None:
        """Decode and pass on."""
        try:
            message = self._decoder.feed(topic, payload)
            if isinstance(message, ErrorReply) and message.v < PROTOCOL_VERSION:
                raise UnsupportedVersion(message.v, PROTOCOL_VERSION)
        except ProtocolError as error:
            self.rejected += 1
            self._not_understood(topic, error)
            return
        if message is not None and self._listener is not None:
            self._listener.received(topic, message)

    def _not_understood(self, topic: str, error: ProtocolError) -> None:
        if isinstance(error, OtherVersion) and self._tell_other is None:
            # The bridge's other messages would be no better.
            listener, self._listener = self._listener, None
            if listener is not None:
                refusal = Refusal(reason=RefusalReason.PROTOCOL_VERSION, message=error.said_of("the bridge"))
                listener.refused(refusal)
            return
        log.warning("packet dropped: %s", error, extra={"action": "packet_dropped", "topic": topic})
        if isinstance(error, OtherVersion) and self._tell_other is not None:
            self._tell_other(topic, error)
