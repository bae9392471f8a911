"""Messages survive the wire whole, and what is not a message is refused with one line."""

from __future__ import annotations

import json
import os

import pytest
import zstandard

from edge_mqtt.broker_bridge.protocol import codec
from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.compression import DICTIONARY_ID, MAGIC, compress
from edge_mqtt.broker_bridge.protocol.errors import (
    MAX_LINE_CHARS,
    CannotBeSent,
    MalformedMessage,
    MessageTooLarge,
    ProtocolError,
    UnknownDictionary,
    UnknownKind,
    UnsupportedVersion,
)
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.limits import MAX_COMPRESSED_JSON_BYTES, MAX_LOG_CHUNK_BYTES, MAX_TURN_BYTES
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    ErrorReply,
    EventAck,
    Finished,
    Fragment,
    JobSpec,
    LogChunk,
    Presence,
    Submit,
    WorkerState,
    WorkloadType,
)


def call(body: bytes) -> ApiRequest:
    return ApiRequest(
        request_id="r1", job_id=JobId("j1"), fence=Fence(1), method="POST", target="xcoms/d/r/t/k", body=body
    )


def test_a_control_message_is_one_json_object() -> None:
    packet = codec.write(Presence(incarnation="i", connection=1, state=WorkerState.ONLINE, queues=("a", "b")))
    assert json.loads(packet) == {
        "kind": "presence",
        "v": 1,
        "incarnation": "i",
        "connection": 1,
        "state": "online",
        "queues": ["a", "b"],
    }


def test_a_message_comes_back_as_it_was_sent() -> None:
    job = JobSpec(job_id=JobId("j"), type=WorkloadType.TASK, queue="a/b #+.", workload={"ti": {"id": "ü"}})
    (packet,) = encode(Submit(job=job, token="secret"))
    decoded = Decoder().feed("t", packet)
    assert isinstance(decoded, Submit)
    assert (decoded.job, decoded.token) == (job, "secret")


def test_a_token_is_not_in_the_repr_of_a_message() -> None:
    job = JobSpec(job_id=JobId("j"), type=WorkloadType.TASK, queue="q", workload={"secret": "w0rkload"})
    text = repr(Submit(job=job, token="t0ken"))
    assert "t0ken" not in text
    assert "w0rkload" not in text


@pytest.mark.parametrize("body", [b"", b"\n", b"a\nb\n" * 5, bytes(range(256)) * 40, b"\xff\xfe"])
def test_a_body_of_any_bytes_comes_back(body: bytes) -> None:
    (packet,) = encode(LogChunk(job_id=JobId("j"), fence=Fence(1), offset=7, body=body))
    decoded = Decoder().feed("t", packet)
    assert isinstance(decoded, LogChunk)
    assert (decoded.offset, decoded.body) == (7, body)


def test_a_message_is_compressed_with_its_body() -> None:
    (packet,) = encode(call(b"log line " * 1000))
    assert packet.startswith(MAGIC)
    assert len(packet) < 200


def test_a_message_that_nobody_has_compressed_is_understood() -> None:
    message = call(b"body")
    assert Decoder().feed("t", codec.write(message)) == message


def test_a_large_message_travels_in_fragments_in_any_order_and_comes_back_whole() -> None:
    body = os.urandom(3 * MAX_TURN_BYTES)
    packets = encode(call(body))
    assert len(packets) == 4
    assert max(map(len, packets)) <= MAX_TURN_BYTES
    decoder = Decoder()
    results = [decoder.feed("t", packet) for packet in [*reversed(packets[1:]), packets[1], packets[0]]]
    assert results[:-1] == [None] * 4
    assert isinstance(results[-1], ApiRequest)
    assert results[-1].body == body


def test_fragments_are_written_as_any_other_message() -> None:
    for packet in encode(call(os.urandom(3 * MAX_TURN_BYTES))):
        assert codec.write(codec.read(packet)) == packet


def test_fragments_on_different_topics_do_not_mix() -> None:
    decoder = Decoder()
    packets = encode(call(os.urandom(2 * MAX_TURN_BYTES)))
    assert [decoder.feed(f"t{i}", packet) for i, packet in enumerate(packets)] == [None] * len(packets)


def test_a_message_over_the_limit_is_refused_by_the_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 200_000)
    with pytest.raises(MessageTooLarge, match="over the limit"):
        encode(call(os.urandom(200_001)))
    job = JobSpec(job_id=JobId("j"), type=WorkloadType.TASK, queue="q", workload={"x": "y" * 200_000})
    with pytest.raises(MessageTooLarge, match="submit message"):
        encode(Submit(job=job, token=""))


def test_a_message_over_the_limit_is_refused_by_the_receiver(monkeypatch: pytest.MonkeyPatch) -> None:
    packets = encode(call(os.urandom(3 * MAX_TURN_BYTES)))
    bomb = encode(call(bytes(1_000_000)))
    size = len(codec.write(call(bytes(1_000_000))))
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 6_000)
    decoder = Decoder()
    decoder.feed("t", packets[0])
    with pytest.raises(MessageTooLarge, match="in fragments"):
        decoder.feed("t", packets[1])
    with pytest.raises(MessageTooLarge, match=f"{size} bytes"):
        decoder.feed("t", bomb[0])


@pytest.mark.parametrize(
    ("packet", "error", "says"),
    [
        (b"", MalformedMessage, "not a message of ours"),
        (b"\xff\xfe\x00", MalformedMessage, "not a message of ours"),
        (b"[" * 100_000, MalformedMessage, "not a message of ours"),
        (b"[]", MalformedMessage, "not a JSON object"),
        # Python's own reader would guess the encodings of these, or let the half of a character pass.
        ('{"v":1,"kind":"executor_hello"}'.encode("utf-16"), MalformedMessage, "not a message of ours"),
        ('{"v":1,"kind":"executor_hello"}'.encode("utf-16-be"), MalformedMessage, "not a message of ours"),
        ('{"v":1,"kind":"executor_hello"}'.encode("utf-32"), MalformedMessage, "not a message of ours"),
        ('{"v":1,"kind":"executor_hello"}'.encode("utf-8-sig"), MalformedMessage, "not a message of ours"),
        (b'{"v":1,"kind":"event_ack","job_id":"\xed\xa0\x80"}', MalformedMessage, "not a message of ours"),
        (b'{"v":1,"kind":"event_ack","job_id":"\xff"}', MalformedMessage, "not a message of ours"),
        (b'{"v":2,"kind":"submit"}', UnsupportedVersion, "version 2, this program speaks 1: upgrade"),
        (b'{"v":1,"kind":"later"}', UnknownKind, "'later'"),
        (b"{}", MalformedMessage, "kind is missing"),
        (b'{"v":1,"kind":7}', MalformedMessage, "kind is missing, or not text"),
        (b'{"v":1,"kind":"submit"}', MalformedMessage, "malformed submit message: job"),
        (b'{"v":1,"kind":"event_ack","job_id":"\\ud800"}', MalformedMessage, "not a message of ours"),
        (
            b'{"v":1,"kind":"finished","job_id":"j","fence":1,"log_size":9223372036854775808}',
            MalformedMessage,
            "size",
        ),
        (MAGIC, MalformedMessage, "not valid zstd"),
        (MAGIC + b"rubbish", UnknownDictionary, f"this program has {DICTIONARY_ID}"),
    ],
)
def test_what_is_not_a_message_is_refused_with_a_reason(packet: bytes, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Decoder().feed("t", packet)


@pytest.mark.parametrize(
    "packet",
    [
        json.dumps({"v": 1, "kind": "later\n" * 10_000_000}).encode(),
        json.dumps({"v": 1, "kind": ["later"] * 1_000_000}).encode(),
        json.dumps({"v": 1, "kind": "adopt_reply", "request_id": "r", "states": {"\x1b[2J" * 1000: 1}}).encode(),
    ],
    ids=["long kind", "kind that is no text", "long name of a field"],
)
def test_what_is_said_of_a_packet_is_one_short_line_whatever_it_holds(packet: bytes) -> None:
    with pytest.raises(ProtocolError) as refused:
        Decoder().feed("t", packet)
    assert len(str(refused.value)) <= MAX_LINE_CHARS
    assert str(refused.value).isprintable()


def test_body_is_behind_the_line_and_never_a_field() -> None:
    packet = b'{"v":1,"kind":"log_chunk","job_id":"j","fence":1,"offset":0,"body":"field"}'
    decoded = Decoder().feed("t", packet)
    assert isinstance(decoded, LogChunk)
    assert decoded.body == b""
    decoded = Decoder().feed("t", packet + b"\nbehind")
    assert isinstance(decoded, LogChunk)
    assert decoded.body == b"behind"


def test_message_that_another_program_compressed_without_a_dictionary_is_understood() -> None:
    message = call(b"body " * 100)
    assert Decoder().feed("t", zstandard.ZstdCompressor().compress(codec.write(message))) == message


def test_words_for_people_that_have_no_utf_8_form_do_not_keep_a_message_from_being_sent() -> None:
    (packet,) = encode(Finished(job_id=JobId("j"), fence=Fence(1), error="no file caf\udce9.txt"))
    decoded = Decoder().feed("t", packet)
    assert isinstance(decoded, Finished)
    assert decoded.error == "no file caf\ufffd.txt"


def test_characters_that_json_spells_as_two_halves_are_whole() -> None:
    decoded = Decoder().feed("t", b'{"v":1,"kind":"event_ack","job_id":"\\ud83d\\ude00"}')
    assert isinstance(decoded, EventAck)
    assert decoded.job_id == "\U0001f600"


def test_unknown_fields_of_a_newer_sender_are_ignored() -> None:
    packet = b'{"v":1,"kind":"event_ack","job_id":"j","colour":"blue"}'
    decoded = Decoder().feed("t", packet)
    assert decoded is not None
    assert decoded.kind == "event_ack"


def test_a_compressed_fragment_is_refused() -> None:
    fragment = b'{"kind":"fragment","v":1,"of":"x","index":0,"count":2}\n' + b"x" * 5000
    with pytest.raises(MalformedMessage, match="a fragment is compressed"):
        Decoder().feed("t", compress(fragment))


def test_much_json_is_not_compressed_and_refused_when_it_is() -> None:
    job = JobSpec(
        job_id=JobId("j"), type=WorkloadType.TASK, queue="q", workload={"x": "y" * MAX_COMPRESSED_JSON_BYTES}
    )
    message, decoder = Submit(job=job, token=""), Decoder()
    parts = [codec.read(packet) for packet in encode(message)]
    assert b"".join(part.body for part in parts if isinstance(part, Fragment)) == codec.write(message)
    assert [decoder.feed("t", packet) for packet in encode(message)][-1] == message
    # A few kilobytes could become gigabytes of lists, and take half a minute in which nobody else is served.
    with pytest.raises(MalformedMessage, match="bytes of JSON are compressed"):
        Decoder().feed(
            "t", compress(b'{"v":1,"kind":"presence","x":[' + b"[]," * MAX_COMPRESSED_JSON_BYTES + b"[]]}")
        )


def test_a_body_of_any_size_is_compressed() -> None:
    message = call(bytes(10 * MAX_TURN_BYTES))
    (packet,) = encode(message)
    assert packet.startswith(MAGIC)
    assert Decoder().feed("t", packet) == message


def test_chunk_of_log_may_be_as_large_as_a_worker_sends_it_and_no_larger() -> None:
    largest = LogChunk(job_id=JobId("j"), fence=Fence(1), offset=0, body=bytes(MAX_LOG_CHUNK_BYTES))
    (packet,) = encode(largest)
    assert Decoder().feed("t", packet) == largest
    with pytest.raises(MalformedMessage, match="malformed log_chunk message: body"):
        Decoder().feed("t", compress(codec.write(largest) + b"x"))


def test_a_message_that_no_packet_can_carry_is_one_clear_error() -> None:
    deep: dict[str, object] = {}
    for _ in range(300):
        deep = {"x": deep}
    job = JobSpec.stored({"job_id": "j", "type": WorkloadType.TASK, "queue": "q", "workload": deep})
    with pytest.raises(CannotBeSent, match="a submit message cannot be sent: "):
        encode(Submit(job=job, token="t"))
    job = JobSpec.stored({"job_id": "j", "type": WorkloadType.TASK, "queue": "\ud800", "workload": {}})
    with pytest.raises(CannotBeSent, match="surrogates not allowed"):
        encode(Submit(job=job, token="t"))


@pytest.mark.parametrize(
    ("job", "job_id"),
    [
        ({"job_id": "j", "queue": "q"}, "j"),
        ({"job_id": "j", "type": "ExecuteTask", "queue": "q", "slots": 2**63}, "j"),
        ({"job_id": "", "queue": "q"}, None),
        ({"job_id": 7}, None),
        ({"queue": "q"}, None),
        ("j", None),
    ],
)
def test_a_malformed_job_is_told_by_its_id_where_it_has_one(job: object, job_id: str | None) -> None:
    packet = json.dumps({"v": 1, "kind": "submit", "job": job, "token": "t"}).encode()
    with pytest.raises(MalformedMessage, match="malformed submit message: job") as raised:
        codec.read(packet)
    assert getattr(raised.value, "job_id", None) == job_id


@pytest.mark.parametrize("version", [b"0", b"-1", b"2"])
def test_no_message_of_another_version_is_accepted_whatever_it_says(version: bytes) -> None:
    with pytest.raises(UnsupportedVersion):
        codec.read(b'{"v":' + version + b',"kind":"event_ack","job_id":"j"}')


def test_version_that_is_not_a_number_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="v is not a number"):
        codec.read(b'{"v":"1","kind":"event_ack","job_id":"j"}')


def test_error_of_an_older_version_is_read_by_every_later_one() -> None:
    assert codec.read(b'{"v":0,"kind":"error","error":"too new"}') == ErrorReply(v=0, error="too new")
