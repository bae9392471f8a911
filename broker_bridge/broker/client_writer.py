"""The end of a client's connection that sends: what is written never waits, and what waits has a limit."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Hashable, Sequence
from typing import Final

from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.broker_bridge.broker.packets import build_publish
from edge_mqtt.broker_bridge.broker.tls_connection import TlsConnection
from edge_mqtt.broker_bridge.transport.turn_queue import TurnQueue

log = logging.getLogger(__name__)

#: Bytes that a packet which waits takes up beside its own.
PACKET_OVERHEAD_BYTES: Final = 64
#: Bytes that are sent as one WebSocket message at most, so that small packets share a TLS record.
SEND_BATCH_BYTES: Final = 64 * 1024
#: Packet ids are 1 to 65535 [MQTT-2.3.1-1].
MAX_PACKET_ID: Final = 65535


class ClientWriter:
    """Sends packets to one client, in order; what is written in one round of the event loop goes out together.

    Large messages wait until nothing else does, and take turns.

    A client for which too much waits gets no more than that. Once it has it all, its connection is ended, and on the
    next one all senders repeat what is missing. Ending it at once would lose what it was about to get: two answers
    that are too large together would never arrive over a slow link.

    :param connection: the open connection.
    :param client_id: for log lines.
    """

    def __init__(self, connection: TlsConnection, client_id: str, *, timing: Timing, limits: Limits) -> None:
        self._connection = connection
        self._timing = timing
        self._limits = limits
        self.client_id = client_id
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._large = TurnQueue()
        self._flushing = False
        self._closing: asyncio.Future[None] | None = None
        self._broken = False
        self._dropped = False
        #: Why the client gets no more on this connection.
        self._full: str | None = None
        #: Counts what the client has taken.
        self._progress = 0
        self._last_packet_id = 0
        self._unacknowledged: set[int] = set()
        self._watch: asyncio.TimerHandle | None = None

    def write(self, data: bytes) -> None:
        """Queue bytes; messages no more when too many wait."""
        if self._broken or self._closing is not None:
            return
        self._queue.append(bytes(data))
        self._queued_bytes += len(data) + PACKET_OVERHEAD_BYTES
        self._flush_soon()

    def _flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self._connection.loop.call_soon(self.flush)
        waiting = self._queued_bytes + self._large.waiting_bytes
        if waiting > self._limits.backlog_bytes and not self._full:
            self._take_no_more(f"it is {waiting >> 20} MiB behind with reading")
        elif waiting > 2 * self._limits.backlog_bytes:
            self.drop("it sends and sends and does not read the answers")

    async def finish(self) -> None:
        """Send what waits, for a while, and take nothing more."""
        if self._closing is None:
            self._closing = self._connection.loop.create_future()
            self._large.clear()
            self.flush()
        await asyncio.wait({self._closing}, timeout=self._timing.last_words_s)

    def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Queue a message."""
        if self._broken or self._closing is not None or self._full:
            return
        packet_id = None
        if qos:
            packet_id = self._next_packet_id()
            if packet_id is None:
                return
        self.write(build_publish(topic, payload, packet_id=packet_id, retain=retain))

    def deliver_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> None:
        """Queue a message in fragments."""
        if self._broken or self._closing is not None or self._full:
            return
        self._large.add(topic, fragments, errand)
        self._flush_soon()

    def record_ack(self, packet_id: int) -> None:
        """Take note of a PUBACK. What is not acknowledged is not repeated: our protocol does that, end to end."""
        self._unacknowledged.discard(packet_id)
        self._progress += 1
        self._large.record_ack(packet_id, self._connection.loop.time())
        if self._large.waiting_bytes:
            self._flush_soon()
        self._end_when_caught_up()

    def flush(self) -> None:
        """Send what waits, for as long as the connection takes it."""
        self._flushing = False
        while self._queue and not self._broken and not self._connection.paused:
            if not self._connection.send_now(self._next_batch()):
                self.stop()
            self._progress += 1
        self._take_turns()
        if self._queue:
            # The connection calls again when it takes more.
            self._flushing = True
            return
        self._end_when_caught_up()
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

    def _take_turns(self) -> None:
        """Let large messages send what they may now."""
        while not self._broken and self._closing is None:
            now = self._connection.loop.time()
            taken = self._large.next_fragment(now, urgent_wait=bool(self._queue) or self._connection.paused)
            if taken is None:
                return
            packet_id = self._next_packet_id()
            if packet_id is None:
                # Its message could not be whole: all come again on the next connection.
                self._large.clear()
                return
            topic, fragment = taken
            if not self._connection.send_now(build_publish(topic, fragment, packet_id=packet_id, retain=False)):
                self.stop()
            self._large.record_sent(packet_id, len(fragment), now)

    def drop(self, reason: str) -> None:
        """End the connection now; one line in the log says why."""
        self.stop()
        if not self._dropped:
            self._dropped = True
            log.warning(
                "%s dropped: %s",
                self.client_id,
                reason,
                extra={"action": "client_dropped", "client": self.client_id},
            )
            self._connection.transport.abort()

    def stop(self) -> None:
        """Send nothing more."""
        self._broken = True
        self._queue.clear()
        self._large.clear()
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)
        if self._watch is not None:
            self._watch.cancel()

    def _take_no_more(self, reason: str) -> None:
        self._full = reason
        log.warning(
            "%s gets nothing more before it has what waits for it and has come back: %s",
            self.client_id,
            reason,
            extra={"action": "client_behind", "client": self.client_id},
        )
        self._watch_progress()

    def _watch_progress(self) -> None:
        before = self._progress

        def look() -> None:
            if self._progress == before:
                self.drop(f"{self._full} and took nothing for {self._timing.stalled_s:g} s")
            else:
                self._watch_progress()

        self._watch = self._connection.loop.call_later(self._timing.stalled_s, look)

    def _end_when_caught_up(self) -> None:
        is_waiting = self._queue or self._large.waiting_bytes or self._unacknowledged
        if self._full and not is_waiting and not self._broken:
            self.drop("it has caught up and is to come back for the rest")

    def _next_packet_id(self) -> int | None:
        """Return an id that is not in use; None when the client gets no more for want of one."""
        if len(self._unacknowledged) >= self._limits.unacknowledged:
            if not self._full:
                self._take_no_more(f"it has not acknowledged {self._limits.unacknowledged} messages")
            return None
        while True:
            self._last_packet_id = self._last_packet_id % MAX_PACKET_ID + 1
            if self._last_packet_id not in self._unacknowledged:
                self._unacknowledged.add(self._last_packet_id)
                return self._last_packet_id

    def _next_batch(self) -> bytes:
        batch = [self._queue.popleft()]
        size = len(batch[0])
        while self._queue and size + len(self._queue[0]) <= SEND_BATCH_BYTES:
            size += len(self._queue[0])
            batch.append(self._queue.popleft())
        self._queued_bytes -= size + len(batch) * PACKET_OVERHEAD_BYTES
        return batch[0] if len(batch) == 1 else b"".join(batch)
