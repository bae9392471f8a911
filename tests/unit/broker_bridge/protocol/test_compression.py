"""What is compressed comes back, and nothing that only looks compressed fills our memory."""

from __future__ import annotations

import os
import re
import threading

import pytest
import zstandard

from edge_mqtt.broker_bridge.protocol.compression import DICTIONARY_ID, MAGIC, compress, decompress, dictionary_file
from edge_mqtt.broker_bridge.protocol.errors import MalformedMessage, MessageTooLarge, UnknownDictionary

ACK = b'{"job_id":"6d2a3ee4-3e8b-445c-ab0d-e1a7168ee698","fence":1,"offset":1371,"kind":"log_ack","v":1}'
LINE = (
    b'{"timestamp":"2026-03-04T05:06:07.890123Z","level":"info","event":"Done. Returned value was: None",'
    b'"logger":"task","filename":"task_runner.py","lineno":1}\n'
)
LIMIT = 1_000_000


def dictionary() -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(dictionary_file().read_bytes())


@pytest.mark.parametrize("packet", [ACK, LINE, LINE * 1000, ACK + b"\n" + bytes(300_000)])
def test_what_is_compressed_comes_back(packet: bytes) -> None:
    compressed = compress(packet)
    assert compressed.startswith(MAGIC)
    assert decompress(compressed, LIMIT) == packet


def test_small_messages_become_smaller_by_what_both_sides_know() -> None:
    assert len(compress(ACK)) < 0.6 * len(ACK)
    assert len(compress(LINE)) < 0.5 * len(LINE)


@pytest.mark.parametrize("packet", [b"", b"x", os.urandom(1000), os.urandom(300_000)])
def test_what_would_not_become_smaller_stays_as_it_is(packet: bytes) -> None:
    assert compress(packet) is packet


def test_dictionary_has_the_number_that_its_file_and_its_frames_say() -> None:
    assert dictionary().dict_id() == DICTIONARY_ID
    assert zstandard.get_frame_parameters(compress(LINE)).dict_id == DICTIONARY_ID


def test_dictionary_says_nothing_of_where_it_was_trained() -> None:
    text = dictionary_file().read_bytes()
    # A token of Airflow's, a home folder, a folder of this repository.
    assert re.findall(rb"eyJ[\w-]{20,}|/home/\w+|/root\b|airflow-edge-mqtt", text) == []


def test_dictionarys_number_is_none_that_the_public_registry_gives_out() -> None:
    assert 32767 < DICTIONARY_ID < 2**31


def test_packet_of_another_dictionary_is_refused_with_both_numbers() -> None:
    other = bytearray(dictionary_file().read_bytes())
    other[4:8] = (DICTIONARY_ID + 1).to_bytes(4, "little")
    compressor = zstandard.ZstdCompressor(dict_data=zstandard.ZstdCompressionDict(bytes(other)))
    with pytest.raises(UnknownDictionary, match=f"dictionary {DICTIONARY_ID + 1}, this program has {DICTIONARY_ID}"):
        decompress(compressor.compress(LINE), LIMIT)


@pytest.mark.parametrize("level", [1, 3, 19])
@pytest.mark.parametrize("packet", [ACK, LINE, LINE * 1000, ACK + b"\n" + bytes(300_000)])
def test_packet_that_is_compressed_without_a_dictionary_comes_back(packet: bytes, level: int) -> None:
    assert decompress(zstandard.ZstdCompressor(level=level).compress(packet), LIMIT) == packet


def test_packet_that_does_not_name_its_dictionary_is_refused() -> None:
    nameless = zstandard.ZstdCompressor(dict_data=dictionary(), write_dict_id=False)
    with pytest.raises(MalformedMessage, match="not valid zstd"):
        decompress(nameless.compress(LINE), LIMIT)


def test_packet_over_the_limit_is_refused_before_it_is_decompressed() -> None:
    bomb = compress(bytes(LIMIT + 1))
    assert len(bomb) < 1000
    with pytest.raises(MessageTooLarge, match=f"{LIMIT + 1} bytes is over the limit of {LIMIT}"):
        decompress(bomb, LIMIT)


def test_packet_that_hides_its_size_is_refused() -> None:
    stream = zstandard.ZstdCompressor(dict_data=dictionary(), write_content_size=False).compressobj()
    with pytest.raises(MalformedMessage, match="how large"):
        decompress(stream.compress(LINE * 100) + stream.flush(), LIMIT)


def test_packet_that_lies_about_its_size_is_refused() -> None:
    compressed = bytearray(compress(LINE * 100))
    size = len(LINE * 100)
    where = compressed.index((size - 256).to_bytes(2, "little"))
    compressed[where : where + 2] = (100).to_bytes(2, "little")
    with pytest.raises(MalformedMessage):
        decompress(bytes(compressed), LIMIT)


@pytest.mark.parametrize(
    "harm", [lambda compressed: compressed[:-3], lambda compressed: compressed + b"more", lambda _: MAGIC]
)
def test_packet_that_is_cut_or_goes_on_behind_its_end_is_refused(harm: object) -> None:
    assert callable(harm)
    with pytest.raises(MalformedMessage):
        decompress(harm(compress(LINE)), LIMIT)


def test_many_threads_may_compress_at_once() -> None:
    wrong: list[bytes] = []

    def work(number: int) -> None:
        for turn in range(200):
            packet = LINE * (1 + (number + turn) % 50)
            if decompress(compress(packet), LIMIT) != packet:
                wrong.append(packet)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
