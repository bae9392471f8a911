"""Packets made smaller: zstd with a dictionary of what our messages and Airflow's logs are made of.

A small message has nothing to be compressed by but what both sides know before. The frame names the dictionary
(RFC 8878, section 3.1.1.1.3), so that a side which does not have it can say so; ``zstd -D FILE`` decompresses it too.
A frame without a dictionary is understood as well: a client in another language may begin with that.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, TypeVar

import zstandard

from edge_mqtt.broker_bridge.protocol.errors import MalformedMessage, MessageTooLarge, UnknownDictionary

_Any = TypeVar("_Any")
#: What every zstd frame begins with (RFC 8878, section 3.1.1). No JSON does.
MAGIC: Final = zstandard.FRAME_HEADER
#: zstd's level: 3 is its default, and the point after which CPU grows faster than the gain.
LEVEL: Final = 3
#: The dictionary's number, in its file and in every frame. A later dictionary has the next one, and is another
#: protocol version: no program may send what the other side cannot read. Above the numbers that are reserved for a
#: public registry (RFC 8878, section 5: up to 32767, and from 2^31), and two bytes in a frame.
DICTIONARY_ID: Final = 40_001
#: The number in a frame that was compressed without a dictionary.
_NO_DICTIONARY: Final = 0
#: Compressors and decompressors are kept for packets up to this many bytes; those of larger ones hold much memory.
_KEEP_UP_TO_BYTES: Final = 128 * 1024

#: Those that are not in use now. They are not for two threads at once; taking one out of a list is.
_compressors: Final[list[zstandard.ZstdCompressor]] = []
_decompressors: Final[list[zstandard.ZstdDecompressor]] = []


def compress(packet: bytes) -> bytes:
    """Return ``packet`` compressed, or as it is when that is not larger."""
    compressor = _pop(_compressors) or zstandard.ZstdCompressor(level=LEVEL, dict_data=_dictionary())
    compressed = compressor.compress(packet)
    if len(packet) <= _KEEP_UP_TO_BYTES:
        _compressors.append(compressor)
    return compressed if len(compressed) < len(packet) else packet


def decompress(packet: bytes, limit: int) -> bytes:
    """Return what was compressed.

    :param limit: bytes that it may have; more are not even made room for.
    :raises MalformedMessage: it is no zstd frame, or does not say how large its content is.
    :raises MessageTooLarge: it is over the limit.
    :raises UnknownDictionary: it was compressed with another dictionary than ours.
    """
    try:
        frame = zstandard.get_frame_parameters(packet)
        if frame.dict_id not in (DICTIONARY_ID, _NO_DICTIONARY):
            raise UnknownDictionary(frame.dict_id, DICTIONARY_ID)
        if frame.content_size == zstandard.CONTENTSIZE_UNKNOWN:
            raise MalformedMessage("the compressed packet does not say how large it is")
        if frame.content_size > limit:
            raise MessageTooLarge(f"a message of {frame.content_size} bytes is over the limit of {limit} bytes")
        if frame.dict_id == _NO_DICTIONARY:
            # With a dictionary it would be read wrong: that sets the first offsets to repeat too.
            return zstandard.ZstdDecompressor().decompress(packet, allow_extra_data=False)
        decompressor = _pop(_decompressors) or zstandard.ZstdDecompressor(dict_data=_dictionary())
        content = decompressor.decompress(packet, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"the packet is not valid zstd: {error}") from error
    _decompressors.append(decompressor)
    return content


def _pop(unused: list[_Any]) -> _Any | None:
    # Not "if unused: pop": another thread may be faster.
    try:
        return unused.pop()
    except IndexError:
        return None


def dictionary_file() -> Path:
    """Return where the dictionary is."""
    return Path(__file__).with_name(f"dictionary-{DICTIONARY_ID}.zstd")


@cache
def _dictionary() -> zstandard.ZstdCompressionDict:
    dictionary = zstandard.ZstdCompressionDict(dictionary_file().read_bytes())
    dictionary.precompute_compress(level=LEVEL)
    return dictionary
