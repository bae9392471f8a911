"""Programs of different protocol versions: the newer one's first word ends in a refusal that says which is older."""

from __future__ import annotations

import json
import logging
from typing import Any, cast

import pytest

from edge_mqtt.broker_bridge.message_router import MessageRouter
from edge_mqtt.broker_bridge.protocol import compression
from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.errors import OtherVersion, UnknownDictionary, UnsupportedVersion
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ErrorReply, Message, Presence, PresenceAck, WorkerState
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport import channel
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.certs.identity import Identity, Role

TOPICS = Topics()
WORKER = WorkerName("lab-3")
CONTROL = TOPICS.control(WORKER)
OPERATOR = Identity(Role.OPERATOR, "ann")
#: What the next version may look like: nothing of it is known here but its ``v``.
LATER = b'{"v":2,"kind":"greeting","to":["be","seen"]}'
LATER_WITH_BODY = b'{"body":"below","v":2}\n\xff\x00'


class Party:
    """Whoever speaks with the bridge."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.refusals: list[Refusal] = []
        self.messages: list[Message] = []
        self.losses: list[str] = []
        self.channel = MessageChannel(MemoryTransport(broker, f"worker:{WORKER}", (CONTROL,)))
        self.channel.start(self)

    def connected(self) -> None:
        pass

    def disconnected(self, reason: str) -> None:
        self.losses.append(reason)

    def refused(self, refusal: Refusal) -> None:
        self.refusals.append(refusal)

    def received(self, topic: str, message: Message) -> None:
        self.messages.append(message)


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


def tell(broker: MemoryBroker, payload: bytes, topic: str = CONTROL) -> None:
    broker.publish(topic, payload, qos=1, retain=False)


@pytest.mark.parametrize("packet", [LATER, LATER_WITH_BODY, b'{"kind":"fragment","v":2,"of":"x"}\nhalf'])
def test_packet_of_a_newer_bridge_is_a_refusal_that_names_both_versions(broker: MemoryBroker, packet: bytes) -> None:
    party = Party(broker)
    tell(broker, packet)
    (refusal,) = party.refusals
    assert refusal.reason is RefusalReason.PROTOCOL_VERSION
    assert refusal.message == "the bridge speaks protocol version 2, this program speaks 1: upgrade this program"


def test_packet_that_a_newer_bridge_has_compressed_is_a_refusal_too(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(broker)
    (compressed,) = encode(Presence(incarnation="i" * 400, connection=1, state=WorkerState.ONLINE))
    assert compressed.startswith(compression.MAGIC)
    monkeypatch.setattr(compression, "DICTIONARY_ID", 40_000)
    tell(broker, compressed)
    assert [refusal.message for refusal in party.refusals] == [
        "the bridge compresses with dictionary 40001, this program has 40000: upgrade this program"
    ]


def test_error_of_an_older_bridge_is_a_refusal_of_the_newer_program(
    broker: MemoryBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "PROTOCOL_VERSION", 2)
    party = Party(broker)
    tell(broker, b'{"kind":"error","v":1,"error":"too new"}')
    (refusal,) = party.refusals
    assert refusal.reason is RefusalReason.PROTOCOL_VERSION
    assert refusal.message == "the bridge speaks protocol version 1, this program speaks 2: upgrade the bridge"


def test_who_is_refused_is_told_nothing_more(broker: MemoryBroker, caplog: pytest.LogCaptureFixture) -> None:
    party = Party(broker)
    tell(broker, LATER)
    tell(broker, LATER)
    tell(broker, encode(PresenceAck(incarnation="i", connection=1, sequence=0))[0])
    broker.cut(f"worker:{WORKER}")
    assert (len(party.refusals), party.messages, party.losses) == (1, [], [])
    assert party.channel.rejected == 2
    assert caplog.messages == [], "the refusal is the one line"


def test_error_of_the_same_version_is_an_ordinary_message(broker: MemoryBroker) -> None:
    party = Party(broker)
    tell(broker, encode(ErrorReply(error="what?"))[0])
    assert (party.refusals, party.messages) == ([], [ErrorReply(error="what?")])


# ---------------------------------------------------------------- the bridge's side


class Site:
    """A router that hears everything, and what it answers."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.answers: list[tuple[str, bytes]] = []
        nothing = cast("Any", None)
        channel = MessageChannel(MemoryTransport(broker, "bridge:b", TOPICS.for_bridge()))
        router = MessageRouter(
            TOPICS,
            channel,
            outbound=nothing,
            dispatch=nothing,
            relay=nothing,
            receiver=nothing,
            tail=nothing,
            tasks=nothing,
        )
        channel.start(router, answer_topic=TOPICS.error_to, serves_many=True)
        answered = ("edge/v1/control/+", "edge/v1/admin/+/response", "edge/v1/events/+")
        broker.subscribe(answered, lambda topic, payload: self.answers.append((topic, payload)))


@pytest.mark.parametrize(
    ("asks", "answered"),
    [
        (TOPICS.presence(WORKER), CONTROL),
        (TOPICS.results(WORKER), CONTROL),
        (TOPICS.rpc_request(WORKER), CONTROL),
        (TOPICS.admin_request(OPERATOR), TOPICS.admin_response(OPERATOR)),
        (TOPICS.submit("q", ExecutorName("e")), TOPICS.admin_response(Identity(Role.EXECUTOR, "e"))),
    ],
)
def test_newer_program_is_told_in_plain_words_that_the_bridge_is_older(
    broker: MemoryBroker, caplog: pytest.LogCaptureFixture, asks: str, answered: str
) -> None:
    site = Site(broker)
    with caplog.at_level(logging.WARNING):
        tell(broker, LATER, asks)
    ((topic, payload),) = site.answers
    assert topic == answered
    assert json.loads(payload) == {
        "kind": "error",
        "v": 1,
        "error": "the sender speaks protocol version 2, the bridge speaks 1: upgrade the bridge",
    }
    assert "version 2" in caplog.text


def test_whoever_may_not_be_there_is_answered_nothing(broker: MemoryBroker) -> None:
    site = Site(broker)
    tell(broker, LATER, "edge/v1/admin/nobody/request")
    assert site.answers == []


def test_error_is_never_compressed_so_that_every_version_can_read_it() -> None:
    long = ErrorReply(error="the same words again and again; " * 40)
    (packet,) = encode(long)
    assert packet.startswith(b"{")
    assert Decoder().feed(CONTROL, packet) == long


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            UnsupportedVersion(3, 1),
            "the sender speaks protocol version 3, this program speaks 1: upgrade this program",
        ),
        (UnsupportedVersion(1, 3), "the sender speaks protocol version 1, this program speaks 3: upgrade the sender"),
        (
            UnknownDictionary(2, 1),
            "the sender compresses with dictionary 2, this program has 1: upgrade this program",
        ),
    ],
)
def test_the_older_one_is_to_be_upgraded(error: OtherVersion, says: str) -> None:
    assert str(error) == says
