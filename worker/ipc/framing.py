"""How documents travel between the worker and its launcher: each behind its length, four bytes, in network order."""

from __future__ import annotations

import socket
import struct
from typing import Final

LENGTH: Final = struct.Struct("!I")


def frame_document(document: bytes) -> bytes:
    """Return ``document`` behind its length."""
    return LENGTH.pack(len(document)) + document


def read_document(channel: socket.socket) -> bytes | None:
    """Return the next document, however long it takes; None at the end of the connection."""
    header = _read_exactly(channel, LENGTH.size)
    if header is None:
        return None
    return _read_exactly(channel, LENGTH.unpack(header)[0])


def _read_exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            received = channel.recv(size - len(data))
        except ConnectionError:
            return None
        if not received:
            return None
        data += received
    return bytes(data)
