"""Messages over a transport: encoding, decoding, and what other versions of the protocol are told."""

from __future__ import annotations

import logging
from typing import Protocol

from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.errors import OtherVersion, ProtocolError, UnsupportedVersion
from edge_mqtt.broker_bridge.protocol.messages import PROTOCOL_VERSION, ErrorReply, Message
from edge_mqtt.broker_bridge.protocol.qos import qos_of
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason, TellOther, Transport

log = logging.getLogger(__name__)


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
