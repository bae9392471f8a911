"""Errors of the wire protocol.

ProtocolError
├── MalformedMessage     not one of our packets, or a field is wrong
├── UnknownKind          a kind this version does not know
├── UnsupportedVersion   the sender speaks a newer protocol
├── UnknownDictionary    packed with a dictionary this version does not have
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


class UnsupportedVersion(ProtocolError):
    """The sender speaks a protocol version that this program does not."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(
            f"the sender speaks protocol version {theirs}, this program speaks {ours}: upgrade this program"
        )
        self.theirs = theirs
        self.ours = ours


class UnknownDictionary(ProtocolError):
    """The packet is packed with a dictionary that this program does not have."""

    def __init__(self, theirs: int, ours: int) -> None:
        super().__init__(
            f"the packet is packed with dictionary {theirs}, this program has {ours}: "
            "run the same version on both sides"
        )
        self.theirs = theirs
        self.ours = ours


class MessageTooLarge(ProtocolError):
    """The message is larger than the limit, whole or in pieces."""


class InvalidTopic(ProtocolError):
    """The topic is not one of ours."""
