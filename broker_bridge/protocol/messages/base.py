"""The envelope, and the packets that any party may send."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

#: The protocol version that this program speaks and writes into every envelope.
PROTOCOL_VERSION = 1


#: What every database can store.
MAX_INTEGER = 2**63 - 1
#: Pieces of one packet at most: enough for the largest packet in pieces of 16 KiB. Empty ones take room too.
MAX_PIECES = 4096


class Part(BaseModel):
    """Something that messages are made of."""

    # Built at its first use: a program needs a part of the kinds only, and building all takes 6 MB.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Message(Part):
    """The envelope: what every message has."""

    kind: str
    v: int = PROTOCOL_VERSION


class BinaryMessage(Message):
    """A message whose bytes follow the JSON line, compressed when that is smaller."""

    body: bytes = Field(default=b"", exclude=True, repr=False)


class Fragment(BinaryMessage):
    """A piece of a packet that is larger than one MQTT packet may be."""

    kind: Literal["fragment"] = "fragment"
    of: str
    index: int = Field(ge=0)
    count: int = Field(ge=2, le=MAX_PIECES)


class ErrorReply(Message):
    """The receiver could not make sense of a message.

    With ``v`` of an older version it tells a newer program that it is too new. This kind, which is never packed, and
    ``v`` as a number in the JSON line of every packet stay as they are in every later version.
    """

    kind: Literal["error"] = "error"
    error: str
