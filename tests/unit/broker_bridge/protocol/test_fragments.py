"""What one sender leaves incomplete is bounded, and nobody else's messages suffer from it."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.protocol import codec
from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.errors import MalformedMessage, MessageTooLarge
from edge_mqtt.broker_bridge.protocol.fragments import Fragments
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.limits import MAX_PARTIAL_MESSAGES, MAX_TURN_BYTES
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, Fragment, Message, Presence, WorkerState
from edge_mqtt.broker_bridge.protocol.topics import Topics

TOPICS = Topics()
LAB = WorkerName("lab")
CALLS = TOPICS.rpc_request(LAB)
TOLD = "leaves too many messages incomplete"


def fragments(count: int = 3) -> list[bytes]:
    """Return the fragments of a message that nobody has sent before."""
    body = os.urandom((count - 1) * MAX_TURN_BYTES)
    message = ApiRequest(
        request_id="r", job_id=JobId("j"), fence=Fence(1), method="POST", target="xcoms/d/r/t/k", body=body
    )
    packets = encode(message)
    assert len(packets) == count
    return packets


def begin(decoder: Decoder, topic: str) -> list[bytes]:
    """Send the first fragment of a message; return the others."""
    first, *others = fragments()
    assert decoder.feed(topic, first) is None
    return others


def ends(decoder: Decoder, topic: str, others: list[bytes]) -> bool:
    """Send the other fragments; tell whether the message is whole."""
    return [decoder.feed(topic, fragment) is not None for fragment in others][-1]


def a_log_of_its_own(number: int) -> str:
    return TOPICS.log(LAB, JobId(f"j{number}"))


def test_several_messages_of_one_sender_may_be_incomplete_at_once(caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder()
    begun = {topic: begin(decoder, topic) for topic in (CALLS, a_log_of_its_own(1), a_log_of_its_own(2))}
    begun_later = begin(decoder, CALLS)
    assert all(ends(decoder, topic, others) for topic, others in begun.items())
    assert ends(decoder, CALLS, begun_later)
    assert not caplog.records


def test_sender_that_begins_messages_on_ever_more_topics_loses_its_oldest(caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder()
    begun = [(topic, begin(decoder, topic)) for topic in map(a_log_of_its_own, range(MAX_PARTIAL_MESSAGES + 2))]
    assert [record.getMessage().startswith(f"worker:lab {TOLD}") for record in caplog.records] == [True]
    assert all(ends(decoder, topic, others) for topic, others in begun[2:])
    assert not any(ends(decoder, topic, others) for topic, others in begun[:2])


def test_sender_of_much_loses_its_oldest_and_nothing_of_others_is_lost(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 3 * MAX_TURN_BYTES)
    decoder = Decoder()
    others = TOPICS.rpc_request(WorkerName("press"))
    of_others = begin(decoder, others)
    first = begin(decoder, CALLS)
    assert decoder.feed(CALLS, first[0]) is None
    second, third = begin(decoder, CALLS), begin(decoder, CALLS)
    assert [record.getMessage().startswith(f"worker:lab {TOLD}") for record in caplog.records] == [True]
    assert decoder.feed(CALLS, first[1]) is None
    assert ends(decoder, CALLS, second)
    assert ends(decoder, CALLS, third)
    assert ends(decoder, others, of_others)


def test_largest_message_comes_whole_past_what_was_left_incomplete(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder()
    largest = fragments(8)
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", sum(map(len, largest)))
    for _ in range(3):
        begin(decoder, CALLS)
    assert ends(decoder, CALLS, largest)


def test_sender_is_named_again_when_it_has_behaved_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    decoder = Decoder()
    for _ in range(2):
        begun = [begin(decoder, CALLS) for _ in range(MAX_PARTIAL_MESSAGES + 1)]
        assert all(ends(decoder, CALLS, others) for others in begun[1:])
    assert caplog.text.count(TOLD) == 2


@pytest.mark.parametrize(
    ("presence", "lost"),
    [
        (Presence(incarnation="i", connection=2, state=WorkerState.ONLINE), True),
        (Presence(incarnation="i", connection=1, sequence=7, state=WorkerState.OFFLINE), True),
        (Presence(incarnation="i", connection=1, sequence=7, state=WorkerState.ONLINE), False),
    ],
    ids=["it connects", "it goes", "it is still there"],
)
def test_what_a_worker_left_incomplete_goes_with_its_connection(presence: Message, *, lost: bool) -> None:
    decoder = Decoder()
    others = TOPICS.rpc_request(WorkerName("press"))
    begun, of_others = begin(decoder, CALLS), begin(decoder, others)
    (packet,) = encode(presence)
    assert decoder.feed(TOPICS.presence(LAB), packet) == presence
    assert ends(decoder, CALLS, begun) is not lost
    assert ends(decoder, others, of_others)


def test_message_in_ever_so_many_fragments_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="malformed fragment message: count"):
        Decoder().feed(CALLS, b'{"kind":"fragment","v":1,"of":"x","index":0,"count":1000000}\n')


def test_two_thousand_workers_may_each_have_messages_incomplete() -> None:
    decoder = Decoder()
    topics = [TOPICS.rpc_request(WorkerName(f"w{number}")) for number in range(2000)]
    messages = [fragments(2) for _ in range(3)]
    for topic in topics:
        assert [decoder.feed(topic, first) for first, _ in messages] == [None] * 3
    for topic in topics:
        assert all(decoder.feed(topic, last) is not None for _, last in messages)


FRAGMENTS_OF_ANYBODY = st.tuples(
    st.sampled_from("ab"), st.sampled_from("tuv"), st.sampled_from("xyz"), st.integers(0, 4), st.integers(0, 60)
)


@given(st.lists(FRAGMENTS_OF_ANYBODY, max_size=60))
def test_whatever_comes_no_sender_makes_us_hold_more_than_it_may(
    arriving: list[tuple[str, str, str, int, int]],
) -> None:
    held = Fragments()
    for sender, topic, of, index, size in arriving:
        with contextlib.suppress(MessageTooLarge):
            held.add(sender, topic, Fragment(of=of, index=index, count=4, body=bytes(size)), 100)
        for of_sender in held._senders.values():
            assert 0 < len(of_sender.partial) <= MAX_PARTIAL_MESSAGES
            assert of_sender.size() <= 100
