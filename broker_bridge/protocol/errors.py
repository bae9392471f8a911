"""Errors of the wire protocol.

ProtocolError
├── MalformedMessage     not one of our packets, or a field is wrong
├── UnknownKind          a kind this version does not know
├── OtherVersion         one of the two programs is older than the other
│   ├── UnsupportedVersion   the sender speaks another protocol version
│   └── UnknownDictionary    packed with a dictionary this version does not have
├── MessageTooLarge      over MAX_MESSAGE_BYTES
├── InvalidName          a name that cannot be used on the wire
└── InvalidTopic         not one of our topics
"""

from __future__ import annotations


class ProtocolError(Exception):
    """Root of everything that can be wrong with a topic or a packet."""


class MalformedMessage(ProtocolError):
    """The packet is not one of ours, or one of its fields is missing or wrong."""


class UnknownKind(ProtocolError):
    """The packet's kind is not known to this version."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"unknown message kind {kind!r}: the sender may be newer than this program")
        self.kind = kind


class OtherVersion(ProtocolError):
    """The sender and this program are of different versions; the older one is to be upgraded."""

    #: What the sender does with its version, and this program with its own.
    _verbs = ("", "")

    def __init__(self, theirs: int, ours: int) -> None:
        self.theirs = theirs
        self.ours = ours
        super().__init__(self.said_of("the sender"))

    def said_of(self, sender: str, reader: str = "this program") -> str:
        """Return one line that says which of the two must be upgraded."""
        does, we_do = self._verbs
        older = reader if self.theirs > self.ours else sender
        return f"{sender} {does} {self.theirs}, {reader} {we_do} {self.ours}: upgrade {older}"


class UnsupportedVersion(OtherVersion):
    """The sender speaks a protocol version that this program does not."""

    _verbs = ("speaks protocol version", "speaks")


class UnknownDictionary(OtherVersion):
    """The packet is packed with a dictionary that this program does not have."""

    _verbs = ("packs with dictionary", "has")


class MessageTooLarge(ProtocolError):
    """The message is larger than the limit, whole or in pieces."""


class InvalidTopic(ProtocolError):
    """The topic is not one of ours."""
