"""Puts together again what travels in fragments, and bounds what one sender can make us hold meanwhile."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from edge_mqtt.broker_bridge.protocol.errors import MessageTooLarge
from edge_mqtt.broker_bridge.protocol.limits import MAX_PARTIAL_MESSAGES
from edge_mqtt.broker_bridge.protocol.messages import Fragment

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Partial:
    count: int
    size: int = 0
    bodies: dict[int, bytes] = field(default_factory=dict)


@dataclass(slots=True)
class _Sender:
    #: By topic and what tells one message's fragments from another's, the oldest first.
    partial: dict[tuple[str, str], _Partial] = field(default_factory=dict)
    #: It has been logged that this one leaves too much incomplete.
    logged: bool = False

    def size(self) -> int:
        return sum(partial.size for partial in self.partial.values())


class Fragments:
    """Holds the fragments of the messages that are not complete."""

    def __init__(self) -> None:
        self._senders: dict[str, _Sender] = {}

    def add(self, sender: str, topic: str, fragment: Fragment, limit: int) -> bytes | None:
        """Return the packet that ``fragment`` completes; None while others are missing.

        A sender that leaves more incomplete than it may loses its oldest fragments: what is still wanted is sent
        again whole. Those of other senders are not touched.

        :param sender: the client id of the publisher.
        :param limit: bytes of one packet at most, and of all fragments of one sender.
        :raises MessageTooLarge: the packet has more.
        """
        of_sender = self._senders.setdefault(sender, _Sender())
        key = (topic, fragment.of)
        partial = of_sender.partial.setdefault(key, _Partial(count=fragment.count))
        if fragment.index not in partial.bodies:
            partial.bodies[fragment.index] = fragment.body
            partial.size += len(fragment.body)
        if partial.size <= limit and len(partial.bodies) < partial.count:
            _make_room(sender, of_sender, key, limit)
            return None
        del of_sender.partial[key]
        if not of_sender.partial:
            del self._senders[sender]
        if partial.size > limit:
            raise MessageTooLarge(f"a message in fragments is over the limit of {limit} bytes")
        return b"".join(partial.bodies[index] for index in sorted(partial.bodies))

    def forget(self, sender: str) -> None:
        """Drop what a sender has left incomplete."""
        self._senders.pop(sender, None)


def _make_room(sender: str, of_sender: _Sender, newest: tuple[str, str], limit: int) -> None:
    while len(of_sender.partial) > MAX_PARTIAL_MESSAGES or of_sender.size() > limit:
        del of_sender.partial[next(key for key in of_sender.partial if key != newest)]
        if not of_sender.logged:
            of_sender.logged = True
            log.warning(
                "%s leaves too many messages incomplete: the oldest are forgotten, at most %d messages and %d bytes "
                "are kept",
                sender,
                MAX_PARTIAL_MESSAGES,
                limit,
                extra={"action": "fragments_forgotten", "sender": sender},
            )
