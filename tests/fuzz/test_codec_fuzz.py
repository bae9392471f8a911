"""No packet, however broken, does anything but raise ProtocolError."""

from __future__ import annotations

import contextlib
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.compression import MAGIC, compress
from edge_mqtt.broker_bridge.protocol.errors import ProtocolError
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.limits import MAX_LOG_BYTES
from edge_mqtt.broker_bridge.protocol.messages import MESSAGE_OF_KIND, LogChunk

KINDS = sorted(MESSAGE_OF_KIND)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)
HEADERS = st.fixed_dictionaries(
    {"kind": st.sampled_from(KINDS), "v": st.integers(-1, 2) | JSON},
    optional={
        "job_id": st.text(max_size=8) | JSON,
        "fence": JSON,
        "offset": JSON,
        "of": st.text(max_size=4),
        "index": st.integers(-1, 5),
        "count": st.integers(-1, 5),
        "request_id": JSON,
    },
)


@given(st.binary(max_size=400))
def test_random_bytes_are_refused_or_decoded(payload: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        Decoder().feed("t", payload)


@settings(max_examples=500)
@given(st.lists(st.tuples(HEADERS, st.binary(max_size=60)), min_size=1, max_size=6))
def test_almost_messages_are_refused_or_decoded(parts: list[tuple[dict[str, object], bytes]]) -> None:
    decoder = Decoder()
    for header, body in parts:
        with contextlib.suppress(ProtocolError):
            decoder.feed("t", json.dumps(header).encode() + b"\n" + body)
        with contextlib.suppress(ProtocolError):
            decoder.feed("t", compress(json.dumps(header).encode() + b"\n" + body * 100))


@given(st.binary(max_size=400))
def test_random_frames_are_refused_or_decoded(rest: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        Decoder().feed("t", MAGIC + rest)


@given(st.binary(max_size=2000), st.integers(0, MAX_LOG_BYTES), st.data())
def test_a_damaged_packet_is_refused_or_decoded(body: bytes, offset: int, data: st.DataObject) -> None:
    chunk = LogChunk(job_id=JobId("j"), fence=Fence(1), offset=offset, body=body)
    (packet,) = encode(chunk)
    damaged = bytearray(packet)
    damaged[data.draw(st.integers(0, len(packet) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ProtocolError):
        Decoder().feed("t", bytes(damaged))
