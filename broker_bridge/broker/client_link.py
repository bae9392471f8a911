"""The two ends of a client's connection: what arrives is worked off at once, what is sent never waits for anybody.

amqtt gets the packets that begin and end a session, through its reader and writer. What comes in between (messages,
subscriptions, pings) would take it five tasks a connection and one more a packet; here it goes straight to the
broker. amqtt's own WebSocket adapters repeat the last message when a connection closes in mid-packet, wait for ever
for a silent client, and let messages for a slow one pile up without limit.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

from amqtt.adapters import ReaderAdapter, WriterAdapter
from websockets.frames import CloseCode

from edge_mqtt.broker_bridge.broker.packets import (
    PINGRESP,
    PacketError,
    PacketSplitter,
    PacketType,
    Publish,
    build_puback,
    build_publish,
    build_suback,
    build_unsuback,
    check_client_packet,
    packet_type,
    parse_publish,
    parse_subscribe,
    puback_id,
)
from edge_mqtt.broker_bridge.broker.tls_connection import TlsConnection
from edge_mqtt.broker_bridge.protocol.codec import MAX_MESSAGE_BYTES
from edge_mqtt.certs.identity import Identity

log = logging.getLogger(__name__)

#: Silence of this many keep alives ends a connection [MQTT-3.1.2-24].
SILENCE_FACTOR: Final = 1.5
#: Packets of one client that are worked off in one round of the event loop: then it is the turn of the others. One
#: WebSocket message may have hundreds of thousands of them.
PACKETS_A_TURN: Final = 200
#: Bytes that may wait for one client. The largest message must fit, with room for what comes beside it.
MAX_BACKLOG_BYTES: Final = MAX_MESSAGE_BYTES + 16 * 1024 * 1024
#: Bytes that a packet which waits takes up beside its own.
PACKET_OVERHEAD_BYTES: Final = 64
#: Seconds in which a client that is that far behind must take something.
STALLED_S: Final = 60.0
#: Bytes that are sent as one WebSocket message at most, so that small packets share a TLS record.
SEND_BATCH_BYTES: Final = 64 * 1024
#: Seconds that the last packets of a connection have to be sent at its end.
LAST_WORDS_S: Final = 5.0
#: Packet ids are 1 to 65535 [MQTT-2.3.1-1].
MAX_PACKET_ID: Final = 65535
#: Ends of a WebSocket connection that are nobody's mistake.
_ORDERLY: Final = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY})


class ClientWriter(WriterAdapter):  # type: ignore[misc]  # amqtt has no types
    """Sends packets to one client, in order; what is written in one round of the event loop goes out together.

    A client for which too much waits gets no more than that. Once it has it all, its connection is ended, and on the
    next one everybody sends again what is missing. Ending it at once would lose what it was about to get: two answers
    that are too large together would never arrive over a slow link.

    :param connection: the open connection.
    :param client_id: for log lines.
    """

    def __init__(self, connection: TlsConnection, client_id: str) -> None:
        self._connection = connection
        self.client_id = client_id
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
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

    # ------------------------------------------------------------ WriterAdapter

    def write(self, data: bytes) -> None:
        """Queue bytes; messages no more when too many wait."""
        if self._broken or self._closing is not None:
            return
        self._queue.append(bytes(data))
        self._queued_bytes += len(data) + PACKET_OVERHEAD_BYTES
        if not self._flushing:
            self._flushing = True
            self._connection.loop.call_soon(self.flush)
        if self._queued_bytes > MAX_BACKLOG_BYTES and not self._full:
            self._take_no_more(f"it is {self._queued_bytes >> 20} MiB behind with reading")
        elif self._queued_bytes > 2 * MAX_BACKLOG_BYTES:
            self.drop("it sends and sends and does not read the answers")

    async def drain(self) -> None:
        """Return at once: amqtt would wait while it holds a lock of the session."""

    def get_peer_info(self) -> tuple[str, int]:
        """Return the peer's address and port."""
        address = self._connection.remote_address
        return (address[0], address[1]) if address else ("?", 0)

    def get_ssl_info(self) -> ssl.SSLObject | None:
        """Return nothing: amqtt would keep it, and has no use for it."""
        return None

    async def close(self) -> None:
        """Send what waits and take nothing more. The listener ends the connection itself."""
        if self._closing is None:
            self._closing = self._connection.loop.create_future()
            self.flush()
        await asyncio.wait({self._closing}, timeout=LAST_WORDS_S)

    # ------------------------------------------------------------ ours

    def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Queue a message."""
        if self._broken or self._closing is not None or self._full:
            return
        packet_id = None
        if qos:
            if len(self._unacknowledged) >= MAX_PACKET_ID:
                self._take_no_more(f"it has not acknowledged {MAX_PACKET_ID} messages")
                return
            packet_id = self._next_packet_id()
        self.write(build_publish(topic, payload, packet_id=packet_id, retain=retain))

    def acknowledged(self, packet_id: int) -> None:
        """Take note of a PUBACK. What is not acknowledged is not repeated: our protocol does that, end to end."""
        self._unacknowledged.discard(packet_id)
        self._progress += 1
        self._end_when_caught_up()

    def flush(self) -> None:
        """Send what waits, for as long as the connection takes it."""
        self._flushing = False
        while self._queue and not self._broken and not self._connection.paused:
            if not self._connection.send_now(self._next_batch()):
                self.stop()
            self._progress += 1
        if self._queue:
            # Until then the connection calls nobody: it does when it takes more.
            self._flushing = True
            return
        self._end_when_caught_up()
        if self._closing is not None and not self._closing.done():
            self._closing.set_result(None)

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
                self.drop(f"{self._full} and took nothing for {STALLED_S:g} s")
            else:
                self._watch_progress()

        self._watch = self._connection.loop.call_later(STALLED_S, look)

    def _end_when_caught_up(self) -> None:
        if self._full and not self._queue and not self._unacknowledged and not self._broken:
            self.drop("it has caught up and is to come back for the rest")

    def _next_packet_id(self) -> int:
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


class Exchange(Protocol):
    """What the broker does for a client."""

    def publish_from(self, identity: Identity, message: Publish) -> None:
        """Deliver a client's message, if it may publish it."""

    def subscribe_from(
        self, identity: Identity, writer: ClientWriter, filters: Sequence[tuple[str, int]]
    ) -> list[int]:
        """Subscribe a client; return the code of each topic filter for its SUBACK."""

    def send_retained(self, topic_filter: str, subscriber: ClientWriter, qos: int) -> None:
        """Deliver the retained messages that match."""

    def unsubscribe_from(self, writer: ClientWriter, topic_filter: str) -> None:
        """End a client's subscription."""


class ClientReader(ReaderAdapter):  # type: ignore[misc]  # amqtt has no types
    """Works off what one client sends; hands amqtt its CONNECT and its DISCONNECT.

    :param splitter: has what came after CONNECT.
    :param connect: the CONNECT packet, which amqtt reads first.
    :param keep_alive_s: the client's, in seconds.
    """

    def __init__(
        self,
        connection: TlsConnection,
        splitter: PacketSplitter,
        exchange: Exchange,
        *,
        identity: Identity,
        connect: bytes,
        keep_alive_s: float,
        writer: ClientWriter,
    ) -> None:
        self._connection = connection
        self._splitter = splitter
        self._exchange = exchange
        self._identity = identity
        self._writer = writer
        self._silence_s = keep_alive_s * SILENCE_FACTOR
        self._heard_at = connection.loop.time()
        self._silence: asyncio.TimerHandle | None = None
        self._for_amqtt = connect
        self._more = asyncio.Event()
        self._started = False
        self._said_goodbye = False
        self._ended = False
        #: The others have their turn; packets wait in the splitter.
        self._resting = False
        self._lost_while_resting = False

    # ------------------------------------------------------------ ReaderAdapter

    async def read(self, n: int = -1) -> bytes:
        """Return ``n`` bytes; fewer, or none, when the connection has ended."""
        while len(self._for_amqtt) < n and not self._is_over():
            self._more.clear()
            await self._more.wait()
        end = len(self._for_amqtt) if n < 0 else n
        data, self._for_amqtt = self._for_amqtt[:end], self._for_amqtt[end:]
        return data

    def _is_over(self) -> bool:
        # An end of the stream right behind DISCONNECT would cancel its processing, and the will be published.
        # Before the session is set up it would be overlooked.
        return self._ended and self._started and not self._said_goodbye

    def feed_eof(self) -> None:
        """Part of the interface; the end is the connection's."""

    # ------------------------------------------------------------ the session

    def start(self) -> None:
        """Work off what has come and what comes: the session is set up."""
        # One round later the session's loop is waiting for packets and for the end.
        self._connection.loop.call_soon(self._connection.loop.call_soon, self._start)

    def _start(self) -> None:
        self._started = True
        self._more.set()
        self._watch_silence()
        self._connection.receive_with(self)

    def _watch_silence(self) -> None:
        due = self._heard_at + self._silence_s
        if self._connection.loop.time() < due:
            self._silence = self._connection.loop.call_at(due, self._watch_silence)
        elif not self._ended:
            self._end(f"silent for {self._silence_s:g} s, longer than 1.5 x its keep alive")

    # ------------------------------------------------------------ Receiver

    def take(self, data: bytes) -> None:
        """Work off what has arrived."""
        self._heard_at = self._connection.loop.time()
        self._splitter.add(data)
        if not self._resting:
            self._take_turn()

    def take_text(self) -> None:
        """End the connection: MQTT is binary [MQTT-6.0.0-1]."""
        if not self._ended:
            self._end("a text message; MQTT is binary")

    def writable(self) -> None:
        """Send what waits."""
        self._writer.flush()

    def lost(self) -> None:
        """Tell amqtt that the connection has ended, once what came before is worked off."""
        if self._resting and not self._ended:
            self._lost_while_resting = True
            return
        closed = self._connection.protocol.close_sent
        if closed is not None and closed.code not in _ORDERLY and not self._ended:
            self._end(closed.reason or f"WebSocket error {closed.code}")
        self._ended = True
        self._more.set()
        self._writer.stop()
        if self._silence is not None:
            self._silence.cancel()

    # ------------------------------------------------------------ packets

    def _take_turn(self) -> None:
        try:
            for count, packet in enumerate(self._splitter.packets(), start=1):
                if self._ended or self._said_goodbye:
                    return
                self._work_off(packet)
                if count == PACKETS_A_TURN:
                    self._resting = True
                    self._connection.pause_reading()
                    self._connection.loop.call_soon(self._go_on)
                    return
        except PacketError as error:
            self._end(str(error))

    def _go_on(self) -> None:
        self._resting = False
        self._connection.resume_reading()
        self._take_turn()
        if self._lost_while_resting and not self._resting:
            self.lost()

    def _work_off(self, packet: bytes) -> None:
        kind = packet_type(packet)
        if kind == PacketType.PUBLISH:
            message = parse_publish(packet)
            self._exchange.publish_from(self._identity, message)
            if message.packet_id is not None:
                self._writer.write(build_puback(message.packet_id))
            return
        check_client_packet(packet)
        if kind == PacketType.PUBACK:
            self._writer.acknowledged(puback_id(packet))
        elif kind == PacketType.PINGREQ:
            self._writer.write(PINGRESP)
        elif kind == PacketType.DISCONNECT:
            self._said_goodbye = True
            self._for_amqtt += packet
            self._more.set()
        else:
            self._subscribe(packet)

    def _subscribe(self, packet: bytes) -> None:
        asked = parse_subscribe(packet)
        if packet_type(packet) == PacketType.UNSUBSCRIBE:
            for topic_filter, _ in asked.filters:
                self._exchange.unsubscribe_from(self._writer, topic_filter)
            self._writer.write(build_unsuback(asked.packet_id))
            return
        codes = self._exchange.subscribe_from(self._identity, self._writer, asked.filters)
        self._writer.write(build_suback(asked.packet_id, codes))
        for (topic_filter, qos), code in zip(asked.filters, codes, strict=True):
            if code <= qos:
                self._exchange.send_retained(topic_filter, self._writer, code)

    def _end(self, reason: str) -> None:
        self._ended = True
        self._more.set()
        self._writer.drop(reason)
