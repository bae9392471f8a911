"""What is large waits here for its turn on one connection. Pure: times and packet ids are passed in.

A large message is in fragments. Those of several messages take turns, so that a small one is not behind all of a
large one. No more of them is on the way than the link carries in a moment: what is urgent never comes here, and waits
for a moment only.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Final

from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES, MAX_PARTIAL_MESSAGES
from edge_mqtt.broker_bridge.transport.congestion import CongestionWindow

#: Seconds after which a fragment goes though urgent messages wait, too: they must not keep it back for ever.
OVERDUE_S: Final = 1.0


@dataclass(slots=True)
class LargeMessage:
    """A message in fragments, and how many of them are sent."""

    topic: str
    fragments: Sequence[bytes]
    #: What it is about: until all of it is sent, another one that says the same is not wanted.
    errand: Hashable
    size: int
    sent: int = 0


@dataclass(frozen=True, slots=True)
class _OnTheWay:
    size: int
    sent_at: float
    #: Bytes of all fragments that were on the way then, its own included.
    on_the_way: int


class TurnQueue:
    """The large messages of one connection. Not thread-safe."""

    def __init__(self) -> None:
        self._window = CongestionWindow()
        #: Begun; the first is the next to send a fragment.
        self._begun: deque[LargeMessage] = deque()
        self._waiting: deque[LargeMessage] = deque()
        self._errands: set[Hashable] = set()
        self._on_the_way: dict[int, _OnTheWay] = {}
        self._bytes_on_the_way = 0
        self._sent_at = -math.inf
        #: Bytes that are not sent yet.
        self.waiting_bytes = 0

    @property
    def is_busy(self) -> bool:
        """Whether anything waits or is on the way."""
        return bool(self._errands or self._on_the_way)

    def add(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> None:
        """Queue a message, unless one with its errand has not been sent whole.

        :param errand: what is sent again while it waits has the same.
        """
        if errand in self._errands:
            return
        self._errands.add(errand)
        size = sum(map(len, fragments))
        self._waiting.append(LargeMessage(topic, fragments, errand, size))
        self.waiting_bytes += size

    def next_fragment(self, now: float, *, urgent_wait: bool) -> tuple[str, bytes] | None:
        """Take the fragment that is to be sent now, with its topic; None when there is none, or not yet.

        :param now: monotonic time in seconds.
        :param urgent_wait: what does not come here waits to be sent as well.
        """
        if urgent_wait and now - self._sent_at < OVERDUE_S:
            return None
        if not self._window.admits(self._bytes_on_the_way):
            return None
        self._begin_some()
        if not self._begun:
            return None
        message = self._begun.popleft()
        fragment = message.fragments[message.sent]
        message.sent += 1
        self.waiting_bytes -= len(fragment)
        self._sent_at = now
        if message.sent < len(message.fragments):
            self._begun.append(message)
        else:
            self._errands.discard(message.errand)
        return message.topic, fragment

    def _begin_some(self) -> None:
        """Begin what the receiver can hold incomplete: so many messages, and so many bytes in all."""
        while self._waiting and len(self._begun) < MAX_PARTIAL_MESSAGES:
            held = sum(message.size for message in self._begun)
            if held and held + self._waiting[0].size > MAX_MESSAGE_BYTES:
                return
            self._begun.append(self._waiting.popleft())

    def record_sent(self, packet_id: int, size: int, now: float) -> None:
        """Take note that a fragment is on its way, as the MQTT packet with that id.

        :param size: its bytes.
        :param now: monotonic time in seconds.
        """
        self._bytes_on_the_way += size
        self._on_the_way[packet_id] = _OnTheWay(size, now, self._bytes_on_the_way)

    def record_ack(self, packet_id: int, now: float) -> None:
        """Take note of a PUBACK; those of other messages change nothing."""
        sent = self._on_the_way.pop(packet_id, None)
        if sent is not None:
            self._bytes_on_the_way -= sent.size
            self._window.record_ack(sent_at=sent.sent_at, now=now, held_s=0.0, on_the_way=sent.on_the_way)

    def clear(self) -> None:
        """Drop what waits: nothing more is sent."""
        self._begun.clear()
        self._waiting.clear()
        self._errands.clear()
        self.waiting_bytes = 0
