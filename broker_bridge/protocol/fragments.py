"""Puts together again what travels in pieces, and bounds what one sender can make us hold meanwhile."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

from edge_mqtt.broker_bridge.protocol.errors import MessageTooLarge
from edge_mqtt.broker_bridge.protocol.messages import Fragment

log = logging.getLogger(__name__)

#: Messages of one sender that may be incomplete at once. A sender publishes a message's pieces in a row, so more than
#: a few can only be left over from connections that dropped.
MAX_PARTIAL_MESSAGES: Final = 8


@dataclass(slots=True)
class _Partial:
    count: int
    size: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Sender:
    #: By topic and what tells one message's pieces from another's, the oldest first.
    partial: dict[tuple[str, str], _Partial] = field(default_factory=dict)
    #: It has been said that this one leaves too much incomplete.
    told: bool = False

    def size(self) -> int:
        return sum(partial.size for partial in self.partial.values())


class Fragments:
    """Holds the pieces of the messages that are not complete."""

    def __init__(self) -> None:
        self._senders: dict[str, _Sender] = {}

    def add(self, sender: str, topic: str, fragment: Fragment, limit: int) -> bytes | None:
        """Return the packet that ``fragment`` completes; None while pieces are missing.

        A sender that leaves more incomplete than it may loses its oldest pieces: what is still wanted is sent again
        whole. Nobody else's are touched.

        :param sender: who published it.
        :param limit: bytes of one packet at most, and of all pieces of one sender.
        :raises MessageTooLarge: the packet has more.
        """
        of_sender = self._senders.setdefault(sender, _Sender())
        key = (topic, fragment.of)
        partial = of_sender.partial.setdefault(key, _Partial(count=fragment.count))
        if fragment.index not in partial.pieces:
            partial.pieces[fragment.index] = fragment.body
            partial.size += len(fragment.body)
        if partial.size <= limit and len(partial.pieces) < partial.count:
            _make_room(sender, of_sender, key, limit)
            return None
        del of_sender.partial[key]
        if not of_sender.partial:
            del self._senders[sender]
        if partial.size > limit:
            raise MessageTooLarge(f"a message in pieces is over the limit of {limit} bytes")
        return b"".join(partial.pieces[i] for i in sorted(partial.pieces))

    def forget(self, sender: str) -> None:
        """Drop what a sender has left incomplete."""
        self._senders.pop(sender, None)


def _make_room(sender: str, of_sender: _Sender, newest: tuple[str, str], limit: int) -> None:
    while len(of_sender.partial) > MAX_PARTIAL_MESSAGES or of_sender.size() > limit:
        del of_sender.partial[next(key for key in of_sender.partial if key != newest)]
        if not of_sender.told:
            of_sender.told = True
            log.warning(
                "%s leaves too many messages incomplete: the oldest are forgotten, at most %d messages and %d bytes "
                "are kept",
                sender,
                MAX_PARTIAL_MESSAGES,
                limit,
                extra={"action": "pieces_forgotten", "sender": sender},
            )
