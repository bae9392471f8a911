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


class MessageReceiver(Protocol):
    """What a channel calls, as described at :class:`MessageChannel`. Every call must return at once."""

    def connected(self) -> None:
        """The connection is up."""

    def disconnected(self, reason: str) -> None:
        """The connection is lost."""

    def refused(self, refusal: Refusal) -> None:
        """There will be no connection, or none of any use: the receiver is to stop the channel."""

    def received(self, topic: str, message: Message) -> None:
        """One message has arrived."""


class MessageChannel:
    """Messages over a transport: encodes, chooses the QoS, joins fragments, drops what is not ours.

    ``start`` is called once, then ``send`` from any thread, then ``stop`` once. The receiver is called as a transport
    calls its own, in the transport's thread: ``connected``, ``received`` for each whole message, ``disconnected``,
    and so on; ``refused`` is the last call. A packet that is not a message of ours is logged, counted in ``rejected``
    and dropped. One that another version of the protocol has written is told to ``tell_other``; a channel without it
    has one partner alone, and treats that as a refusal.

    Nothing is durable: ``send`` gives a message to the present connection, and True means no more than that. Senders
    keep what they send until a message acknowledges it, and send it again after ``connected``. The fragments of one
    message do not outlive their connection. ``send`` raises ``MessageTooLarge`` and nothing else.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._decoder = Decoder()
        self._receiver: MessageReceiver | None = None
        self._tell_other: TellOther | None = None
        #: Packets that were not ours or not understood since the start.
        self.rejected = 0

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""
        return self._transport.connection

    def start(self, receiver: MessageReceiver, *, tell_other: TellOther | None = None) -> None:
        """Begin connecting and tell ``receiver``.

        :param tell_other: is told of packets of another protocol version; None for programs that speak with the
            bridge only: for these it is a refusal.
        """
        self._receiver = receiver
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
        if self._receiver is not None:
            self._receiver.connected()

    def disconnected(self, reason: str) -> None:
        """Pass on."""
        if self._receiver is not None:
            self._receiver.disconnected(reason)

    def refused(self, refusal: Refusal) -> None:
        """Pass on."""
        if self._receiver is not None:
            self._receiver.refused(refusal)

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
        if message is not None and self._receiver is not None:
            self._receiver.received(topic, message)

    def _not_understood(self, topic: str, error: ProtocolError) -> None:
        if isinstance(error, OtherVersion) and self._tell_other is None:
            # The bridge's other messages would be no better.
            receiver, self._receiver = self._receiver, None
            if receiver is not None:
                refusal = Refusal(reason=RefusalReason.PROTOCOL_VERSION, message=error.said_of("the bridge"))
                receiver.refused(refusal)
            return
        log.warning("packet dropped: %s", error, extra={"action": "packet_dropped", "topic": topic})
        if isinstance(error, OtherVersion) and self._tell_other is not None:
            self._tell_other(topic, error)
