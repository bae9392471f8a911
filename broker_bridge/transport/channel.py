"""Messages over a transport: encoding, decoding, and what the sender of a packet that is not understood is told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.errors import (
    MalformedSubmit,
    OtherVersion,
    ProtocolError,
    UnsupportedVersion,
    failure_line,
)
from edge_mqtt.broker_bridge.protocol.messages import PROTOCOL_VERSION, ErrorReply, Message
from edge_mqtt.broker_bridge.protocol.qos import qos_of
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason, Transport

log = logging.getLogger(__name__)

#: Takes a job that is malformed, but for its id, and the topic on which it came.
RefuseSubmit = Callable[[str, MalformedSubmit], None]
#: Returns the topic on which the sender of what came on a topic hears answers; None: it hears none.
AnswerTopic = Callable[[str], str | None]


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
    """Messages over a transport: encodes, chooses the QoS, joins fragments, rejects what is not ours.

    ``start`` is called once, then ``send`` from any thread, then ``stop`` once. The receiver is called as a transport
    calls its own, in the transport's thread: ``connected``, ``received`` for each whole message, ``disconnected``,
    and so on; ``refused`` is the last call. A packet that is not a message of ours is logged, counted in
    ``rejected``, dropped, and its sender is told why; so is a message that the receiver fails at. One that another
    version of the protocol has written is a refusal for a channel that has one partner alone; the bridge's serves
    many, and rejects it as any other.

    Nothing is durable: ``send`` gives a message to the present connection, and True means no more than that. Senders
    keep what they send until a message acknowledges it, and send it again after ``connected``. The fragments of one
    message do not outlive their connection. ``send`` raises ``CannotBeSent`` and nothing else.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._decoder = Decoder()
        self._receiver: MessageReceiver | None = None
        self._answer_topic: AnswerTopic = _nowhere
        self._serves_many = False
        self._refuse_submit: RefuseSubmit | None = None
        #: Packets that were not ours or not understood since the start.
        self.rejected = 0

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""
        return self._transport.connection

    @property
    def is_busy(self) -> bool:
        """Whether large messages wait or are on the way."""
        return self._transport.is_busy

    def start(
        self,
        receiver: MessageReceiver,
        *,
        answer_topic: AnswerTopic | None = None,
        serves_many: bool = False,
        refuse_submit: RefuseSubmit | None = None,
    ) -> None:
        """Begin connecting and tell ``receiver``.

        :param answer_topic: where a sender is told that its packet was not understood; None: nowhere.
        :param serves_many: for the bridge: a partner of another protocol version is told so, and others are served.
        :param refuse_submit: for the bridge: is told of jobs that are malformed, so that they fail.
        """
        self._receiver = receiver
        self._answer_topic = answer_topic or _nowhere
        self._serves_many = serves_many
        self._refuse_submit = refuse_submit
        self._transport.start(self)

    def stop(self) -> None:
        """End the connection."""
        self._transport.stop()

    def send(self, topic: str, message: Message, *, retain: bool = False) -> bool:
        """Send ``message``; False while there is no connection.

        :raises CannotBeSent: it is over the limit of a message, or no packet can express it.
        """
        return self.send_counted(topic, message, retain=retain) > 0

    def send_counted(self, topic: str, message: Message, *, retain: bool = False) -> int:
        """Send ``message``; return its bytes as they travel, 0 while there is no connection.

        :raises CannotBeSent: it is over the limit of a message, or no packet can express it.
        """
        packets = encode(message)
        if len(packets) == 1:
            is_sent = self._transport.publish(topic, packets[0], qos=qos_of(message.kind), retain=retain)
        else:
            # A call that is sent again is not the same to the byte, and an answer to it need not be.
            errand = (topic, message.kind, getattr(message, "request_id", packets[0]))
            is_sent = self._transport.publish_large(topic, packets, errand=errand)
        return sum(map(len, packets)) if is_sent else 0

    def reject(self, topic: str, problem: str) -> None:
        """Count and log that what came on ``topic`` is dropped, and tell its sender why.

        :param problem: one line for people.
        """
        log.warning("packet dropped: %s", problem, extra={"action": "packet_dropped", "topic": topic})
        self.tell_rejected(topic, problem)

    def tell_rejected(self, topic: str, problem: str) -> None:
        """Count that what came on ``topic`` is dropped, and tell its sender why; it is logged already.

        :param problem: one line for people.
        """
        self.rejected += 1
        answer_topic = self._answer_topic(topic)
        if answer_topic is not None:
            self.send(answer_topic, ErrorReply(error=problem))

    def fail(self, topic: str, message: Message, error: Exception) -> None:
        """Count and log that the receiver fails at a message, and tell its sender."""
        problem = f"a {message.kind} message: {failure_line(error)}"
        log.error("a message failed: %s", problem, extra={"action": "message_failed", "topic": topic})
        self.tell_rejected(topic, problem)

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
        except OtherVersion as error:
            self._met_other_version(topic, error)
        except ProtocolError as error:
            self.reject(topic, str(error))
            if isinstance(error, MalformedSubmit) and self._refuse_submit is not None:
                self._refuse_submit(topic, error)
        else:
            if message is not None:
                self._hand_on(topic, message)

    def _hand_on(self, topic: str, message: Message) -> None:
        if self._receiver is None:
            return
        try:
            self._receiver.received(topic, message)
        except Exception as error:  # noqa: BLE001  a message, whatever it is, ends no program
            self.fail(topic, message, error)

    def _met_other_version(self, topic: str, error: OtherVersion) -> None:
        if self._serves_many:
            self.reject(topic, error.describe("the sender", "the bridge"))
            return
        self.rejected += 1
        # The bridge's other messages would be no better.
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            message = error.describe("the bridge", "this program")
            receiver.refused(Refusal(reason=RefusalReason.PROTOCOL_VERSION, message=message))


def _nowhere(_: str) -> None:
    """Send no answer."""
