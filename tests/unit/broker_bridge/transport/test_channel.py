"""What a channel does with packets that it does not understand: counts, logs, and tells the sender."""

from __future__ import annotations

import contextlib

import pytest

from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.errors import ProtocolError
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ErrorReply, EventAck, Message, ResultAck
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.certs.identity import Identity, Role

TOPICS = Topics()
LAB = Identity(Role.WORKER, "lab.3")
EXECUTOR = Identity(Role.EXECUTOR, "main")
OPERATOR = Identity(Role.OPERATOR, "ann")
CONTROL = TOPICS.control(WorkerName(LAB.name))
ACKS = TOPICS.acks(WorkerName(LAB.name))
UNKNOWN = b'{"v":1,"kind":"sing","song":"la"}'
MALFORMED = b'{"v":1,"kind":"event_ack"}'
UNKNOWN_KIND = "unknown message kind 'sing': one of the two programs is older than the other"


class Listener:
    """Remembers the messages that are handed over."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def connected(self) -> None:
        pass

    def disconnected(self, reason: str) -> None:
        pass

    def refused(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)

    def received(self, topic: str, message: Message) -> None:
        self.messages.append(message)


class Wire:
    """A broker, a bridge and a worker on it, and all that is answered."""

    def __init__(self) -> None:
        self.broker = MemoryBroker()
        self.errors: list[tuple[str, ErrorReply]] = []
        self.bridge, self.at_bridge = Listener(), self._channel("bridge:b", *TOPICS.for_bridge())
        self.worker, self.at_worker = Listener(), self._channel(LAB.client_id, CONTROL)
        self.at_bridge.start(self.bridge, answer_topic=TOPICS.error_to, serves_many=True)
        error_topic = TOPICS.error_from(LAB)
        self.at_worker.start(self.worker, answer_topic=lambda _: error_topic)
        self.broker.subscribe(("#",), self._note)

    def _channel(self, client_id: str, *subscriptions: str) -> MessageChannel:
        return MessageChannel(MemoryTransport(self.broker, client_id, subscriptions))

    def _note(self, topic: str, packet: bytes) -> None:
        with contextlib.suppress(ProtocolError):
            message = Decoder().feed(topic, packet)
            if isinstance(message, ErrorReply):
                self.errors.append((topic, message))

    def tell(self, topic: str, packet: bytes) -> None:
        self.broker.publish(topic, packet, qos=1, retain=False)


@pytest.mark.parametrize(
    ("topic", "answered"),
    [
        (ACKS, CONTROL),
        (TOPICS.log(WorkerName(LAB.name), JobId("j")), CONTROL),
        (TOPICS.submit("from/q", ExecutorName(EXECUTOR.name)), TOPICS.admin_response(EXECUTOR)),
        (TOPICS.admin_request(OPERATOR), TOPICS.admin_response(OPERATOR)),
    ],
)
def test_bridge_answers_an_unknown_kind_where_its_sender_listens_counts_it_and_goes_on(
    caplog: pytest.LogCaptureFixture, topic: str, answered: str
) -> None:
    wire = Wire()
    wire.tell(topic, UNKNOWN)
    assert wire.errors == [(answered, ErrorReply(error=UNKNOWN_KIND))]
    assert (wire.at_bridge.rejected, wire.bridge.messages) == (1, [])
    assert caplog.messages == [f"packet dropped: {UNKNOWN_KIND}"]
    wire.tell(topic, encode(EventAck(job_id=JobId("j")))[0])
    assert wire.bridge.messages == [EventAck(job_id=JobId("j"))]


def test_worker_answers_an_unknown_kind_counts_it_and_goes_on() -> None:
    wire = Wire()
    wire.tell(CONTROL, UNKNOWN)
    assert wire.errors == [(ACKS, ErrorReply(error=UNKNOWN_KIND))]
    assert (wire.at_worker.rejected, wire.worker.messages) == (1, [])
    assert wire.bridge.messages == [ErrorReply(error=UNKNOWN_KIND)], "it is the bridge's to log"
    ack = ResultAck(job_id=JobId("j"), fence=Fence(1))
    wire.tell(CONTROL, encode(ack)[0])
    assert wire.worker.messages == [ack]


def test_executor_and_operator_answer_where_they_ask() -> None:
    assert TOPICS.error_from(EXECUTOR) == TOPICS.admin_request(EXECUTOR)
    assert TOPICS.error_from(OPERATOR) == TOPICS.admin_request(OPERATOR)


@pytest.mark.parametrize(
    ("packet", "says"),
    [
        (MALFORMED, "malformed event_ack message: job_id: Field required"),
        (b"hello", "not a message of ours: Expecting value: line 1 column 1 (char 0)"),
        (b'{"kind":"error","v":1}', "malformed error message: error: Field required"),
    ],
)
def test_malformed_packet_is_answered_with_what_is_wrong(packet: bytes, says: str) -> None:
    wire = Wire()
    wire.tell(ACKS, packet)
    assert (CONTROL, ErrorReply(error=says)) in wire.errors
    assert wire.at_bridge.rejected == 1


def test_error_is_never_answered() -> None:
    wire = Wire()
    wire.tell(ACKS, encode(ErrorReply(error="what?"))[0])
    wire.tell(CONTROL, encode(ErrorReply(error="what?"))[0])
    assert [topic for topic, _ in wire.errors] == [ACKS, CONTROL]
    assert (wire.at_bridge.rejected, wire.at_worker.rejected) == (0, 0)


def test_what_comes_on_a_topic_of_the_bridges_own_is_answered_to_nobody() -> None:
    wire = Wire()
    wire.at_bridge.reject(CONTROL, "what?")
    wire.at_bridge.reject("edge/v1/admin/nobody/request", "what?")
    assert (wire.errors, wire.at_bridge.rejected) == ([], 2)


def test_channel_without_a_place_for_answers_counts_and_logs(caplog: pytest.LogCaptureFixture) -> None:
    broker, listener = MemoryBroker(), Listener()
    channel = MessageChannel(MemoryTransport(broker, LAB.client_id, (CONTROL,)))
    channel.start(listener)
    broker.publish(CONTROL, UNKNOWN, qos=1, retain=False)
    assert (channel.rejected, caplog.messages) == (1, [f"packet dropped: {UNKNOWN_KIND}"])
