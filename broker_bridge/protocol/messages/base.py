"""The envelope, and the packets that any party may send."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from edge_mqtt.broker_bridge.protocol.messages import bounds

#: The protocol version that this program speaks and writes into every envelope.
PROTOCOL_VERSION = 1


class Part(BaseModel):
    """Something that messages are made of."""

    # Built at its first use: a program needs a part of the kinds only, and building all takes 6 MB.
    model_config = ConfigDict(frozen=True, extra="ignore", defer_build=True)


class Message(Part):
    """The envelope: what every message has."""

    kind: str
    v: bounds.Count = PROTOCOL_VERSION


class BinaryMessage(Message):
    """A message whose bytes follow the JSON line, compressed when that is smaller."""

    body: bytes = Field(default=b"", exclude=True, repr=False)


class Fragment(BinaryMessage):
    """A part of a packet that is larger than one MQTT payload may be."""

    kind: Literal["fragment"] = "fragment"
    #: The same for all fragments of one packet, and for no other packet's.
    of: bounds.Name
    #: Which part it is, from 0.
    index: bounds.FragmentIndex
    #: Parts in all.
    count: bounds.FragmentCount


class ErrorReply(Message):
    """The receiver did not understand a packet. Never answered, never compressed.

    With ``v`` of an older version it tells a newer program that it is too new. This kind, and ``v`` as a number in
    the JSON line of every packet, stay as they are in every later version.
    """

    kind: Literal["error"] = "error"
    #: One line for people: what was wrong with it.
    error: bounds.Prose
