"""Errors of the wire protocol. What an error says is one line, whatever bytes it is about.

ProtocolError
├── MalformedMessage     not one of our packets, or a field is wrong
│   └── MalformedSubmit      a job that its executor can be told about
├── UnknownKind          a kind this version does not know
├── OtherVersion         one of the two programs is older than the other
│   ├── UnsupportedVersion   the sender speaks another protocol version
│   └── UnknownDictionary    compressed with a dictionary this version does not have
├── CannotBeSent         a message that no packet can carry
│   └── MessageTooLarge      over MAX_MESSAGE_BYTES
└── InvalidTopic         not one of our topics
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from edge_mqtt.broker_bridge.protocol.ids import JobId

#: Characters of an error at most. It may quote what a peer has sent, and goes into a log line and an answer.
MAX_LINE_CHARS: Final = 300
#: Characters that are quoted of a kind that is not known.
MAX_KIND_CHARS: Final = 60


def one_line(text: str) -> str:
    """Return ``text`` as it may stand in a log: bounded, without characters that begin a line or move a cursor."""
    clipped = _clipped(text, MAX_LINE_CHARS)
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in clipped)


def failure_line(error: BaseException) -> str:
    """Return what an error that nobody has foreseen is, and where in the program, in one line."""
    *_, (frame, line) = [(None, 0), *traceback.walk_tb(error.__traceback__)]
    where = "" if frame is None else f" at {Path(frame.f_code.co_filename).name}:{line}"
    # What pydantic says quotes the values, a token perhaps.
    told = problem_of(error) if isinstance(error, ValidationError) else str(error)
    return one_line(f"{type(error).__name__}{where}: {told}")


def readable(text: str, max_chars: int) -> str:
    """Return ``text``, whatever it is, as text that can be stored and sent; lines and gaps in it stay."""
    clipped = _clipped(text, max_chars)
    if clipped.isprintable():
        return clipped
    return "".join(
        character if character.isprintable() or character.isspace() else "\N{REPLACEMENT CHARACTER}"
        for character in clipped
    )


def _clipped(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def problem_of(error: ValidationError) -> str:
    """Return the first thing that is wrong with a message, in one line: the field, and what it must be."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return one_line(f"{where}: {first['msg'].removeprefix('Value error, ')}")


class ProtocolError(Exception):
    """Root of everything that can be wrong with a topic or a packet."""

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class MalformedMessage(ProtocolError):
    """The packet is not one of ours, or one of its fields is missing or wrong."""


class MalformedSubmit(MalformedMessage):
    """A field of a job is missing or wrong, but not the job's id."""

    def __init__(self, message: str, job_id: JobId) -> None:
        super().__init__(message)
        self.job_id = job_id


class UnknownKind(ProtocolError):
    """The packet's kind is not known to this version."""

    def __init__(self, kind: str) -> None:
        quoted = repr(kind[:MAX_KIND_CHARS])
        super().__init__(f"unknown message kind {quoted}: one of the two programs is older than the other")
        self.kind = kind


class OtherVersion(ProtocolError):
    """The sender and this program are of different versions; the older one is to be upgraded."""

    #: What the sender does with its version, and this program with its own.
    _verbs = ("", "")

    def __init__(self, theirs: int, ours: int) -> None:
        self.theirs = theirs
        self.ours = ours
        super().__init__(self.describe("the sender", "this program"))

    def describe(self, sender: str, reader: str) -> str:
        """Return one line that says which of the two must be upgraded."""
        does, we_do = self._verbs
        older = reader if self.theirs > self.ours else sender
        return f"{sender} {does} {self.theirs}, {reader} {we_do} {self.ours}: upgrade {older}"


class UnsupportedVersion(OtherVersion):
    """The sender speaks a protocol version that this program does not."""

    _verbs = ("speaks protocol version", "speaks")


class UnknownDictionary(OtherVersion):
    """The packet is compressed with a dictionary that this program does not have."""

    _verbs = ("compresses with dictionary", "has")


class CannotBeSent(ProtocolError):
    """The message has something that no packet can carry."""


class MessageTooLarge(CannotBeSent):
    """The message is larger than the limit, whole or in fragments."""


class InvalidTopic(ProtocolError):
    """The topic is not one of ours."""
