"""The two ends of a client's connection as amqtt sees them: a reader of whole packets and a writer that never waits.

amqtt's own WebSocket adapters repeat the last message when a connection closes in mid-packet, wait for ever for a
silent client, and let messages for a slow one pile up without limit.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from typing import Final

from amqtt.adapters import ReaderAdapter, WriterAdapter
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from edge_mqtt.broker_bridge.broker.packets import (
    PacketError,
    PacketSplitter,
    PacketType,
    build_publish,
    check_client_packet,
    packet_type,
    puback_id,
)
from edge_mqtt.broker_bridge.protocol.codec import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

#: Silence of this many keep alives ends a connection [MQTT-3.1.2-24].
SILENCE_FACTOR: Final = 1.5
#: Bytes that may wait for one client. The largest message must fit, with room for what comes beside it.
MAX_BACKLOG_BYTES: Final = MAX_MESSAGE_BYTES + 16 * 1024 * 1024
#: Seconds in which a client that is that far behind must take something.
STALLED_S: Final = 60.0
#: Bytes that are sent as one WebSocket message at most, so that small packets share a TLS record.
SEND_BATCH_BYTES: Final = 64 * 1024
#: Messages of one client that may be with the broker at once; then its socket is not read.
MAX_IN_PROGRESS: Final = 64
#: Seconds that the last packets of a connection have to be processed or sent at its end.
LAST_WORDS_S: Final = 5.0
#: Packet ids are 1 to 65535 [MQTT-2.3.1-1].
MAX_PACKET_ID: Final = 65535
#: Ends of a WebSocket connection that are nobody's mistake.
_ORDERLY: Final = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY})


class ClientWriter(WriterAdapter):  # type: ignore[misc]  # amqtt has no types
    """Sends packets to one client, in order, in a task of its own.

    A client for which too much waits gets no more than that. Once it has it all, its connection is ended, and on the
    next one everybody sends again what is missing. Ending it at once would lose what it was about to get: two answers
    that are too large together would never arrive over a slow link.

    :param websocket: the open connection.
    :param client_id: for log lines.
    """

    def __init__(self, websocket: ServerConnection, client_id: str) -> None:
        self._websocket = websocket
        self._client_id = client_id
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._wake = asyncio.Event()
        self._closing = False
        self._broken = False
        self._dropped = False
        #: Why the client gets no more on this connection.
        self._full: str | None = None
        #: Counts what the client has taken.
        self._progress = 0
        self._last_packet_id = 0
        self._unacknowledged: set[int] = set()
        self._watch: asyncio.TimerHandle | None = None
        self._sender = asyncio.create_task(self._send_loop(), name=f"broker[{client_id}].sender")

    # ------------------------------------------------------------ WriterAdapter

    def write(self, data: bytes) -> None:
        """Queue bytes; messages no more when too many wait."""
        if self._broken or self._closing:
            return
        self._queue.append(bytes(data))
        self._queued_bytes += len(data)
        self._wake.set()
        if self._queued_bytes > MAX_BACKLOG_BYTES and not self._full:
            self._take_no_more(f"it is {self._queued_bytes >> 20} MiB behind with reading")

    async def drain(self) -> None:
        """Return at once: amqtt would wait while it holds a lock of the session."""

    def get_peer_info(self) -> tuple[str, int]:
        """Return the peer's address and port."""
        address = self._websocket.remote_address
        return (address[0], address[1]) if address else ("?", 0)

    def get_ssl_info(self) -> ssl.SSLObject | None:
        """Return the TLS side of the connection."""
        info = self._websocket.transport.get_extra_info("ssl_object")
        return info if isinstance(info, ssl.SSLObject) else None

    async def close(self) -> None:
        """Send what waits and take nothing more. The listener ends the connection itself."""
        self._closing = True
        self._wake.set()
        await asyncio.wait({self._sender}, timeout=LAST_WORDS_S)

    # ------------------------------------------------------------ ours

    def deliver(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Queue a message."""
        if self._broken or self._closing or self._full:
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

    def drop(self, reason: str) -> None:
        """End the connection now; one line in the log says why."""
        self._broken = True
        self._queue.clear()
        self._stop_watching()
        if not self._dropped:
            self._dropped = True
            log.warning(
                "%s dropped: %s",
                self._client_id,
                reason,
                extra={"action": "client_dropped", "client": self._client_id},
            )
            self._websocket.transport.abort()

    def stop(self) -> None:
        """End the sending task; nothing is sent any more."""
        self._broken = True
        self._sender.cancel()
        self._stop_watching()

    def _stop_watching(self) -> None:
        if self._watch is not None:
            self._watch.cancel()

    def _take_no_more(self, reason: str) -> None:
        self._full = reason
        log.warning(
            "%s gets nothing more before it has what waits for it and has come back: %s",
            self._client_id,
            reason,
            extra={"action": "client_behind", "client": self._client_id},
        )
        self._watch_progress()

    def _watch_progress(self) -> None:
        before, loop = self._progress, asyncio.get_running_loop()

        def look() -> None:
            if self._progress == before:
                self.drop(f"{self._full} and took nothing for {STALLED_S:g} s")
            else:
                self._watch_progress()

        self._watch = loop.call_later(STALLED_S, look)

    def _end_when_caught_up(self) -> None:
        if self._full and not self._queue and not self._unacknowledged:
            self.drop("it has caught up and is to come back for the rest")

    def _next_packet_id(self) -> int:
        while True:
            self._last_packet_id = self._last_packet_id % MAX_PACKET_ID + 1
            if self._last_packet_id not in self._unacknowledged:
                self._unacknowledged.add(self._last_packet_id)
                return self._last_packet_id

    async def _send_loop(self) -> None:
        try:
            while True:
                while self._queue:
                    await self._websocket.send(self._next_batch())
                    self._progress += 1
                self._end_when_caught_up()
                if self._closing:
                    return
                self._wake.clear()
                await self._wake.wait()
        except ConnectionClosed:
            self._broken = True
            self._queue.clear()
            self._stop_watching()

    def _next_batch(self) -> bytes:
        batch = [self._queue.popleft()]
        size = len(batch[0])
        while self._queue and size + len(self._queue[0]) <= SEND_BATCH_BYTES:
            size += len(self._queue[0])
            batch.append(self._queue.popleft())
        self._queued_bytes -= size
        return batch[0] if len(batch) == 1 else b"".join(batch)


class ClientReader(ReaderAdapter):  # type: ignore[misc]  # amqtt has no types
    """Hands amqtt the packets of one client, whole, checked and no faster than it works them off.

    :param splitter: has what came after CONNECT.
    :param connect: the CONNECT packet, which amqtt reads first.
    :param keep_alive_s: the client's, in seconds.
    """

    def __init__(
        self,
        websocket: ServerConnection,
        splitter: PacketSplitter,
        *,
        connect: bytes,
        keep_alive_s: float,
        writer: ClientWriter,
    ) -> None:
        self._websocket = websocket
        self._splitter = splitter
        self._writer = writer
        self._silence_s = keep_alive_s * SILENCE_FACTOR
        self._packets: deque[bytes] = deque()
        self._current = connect
        self._position = 0
        self._started = asyncio.Event()
        self._goodbye = False
        self._ended = False
        self._in_progress = 0
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self._room.set()
        self._idle.set()

    async def read(self, n: int = -1) -> bytes:
        """Return ``n`` bytes; fewer, or none, when the connection has ended."""
        while len(self._current) - self._position < n:
            packet = await self._next_packet()
            if packet is None:
                return b""
            self._current = self._current[self._position :] + packet
            self._position = 0
        end = len(self._current) if n < 0 else self._position + n
        data = self._current[self._position : end]
        self._position = end
        return data

    def feed_eof(self) -> None:
        """Part of the interface; the end is the connection's."""

    def start(self) -> None:
        """Let packets through: the session is set up, and would overlook an end that came before."""
        loop = asyncio.get_running_loop()
        # One round later the session's loop is waiting for packets and for the end.
        loop.call_soon(loop.call_soon, self._started.set)

    def message_done(self) -> None:
        """Count a message as worked off."""
        self._in_progress -= 1
        self._room.set()
        if self._in_progress == 0:
            self._idle.set()

    async def _next_packet(self) -> bytes | None:
        await self._started.wait()
        if self._goodbye:
            # An end of the stream right behind DISCONNECT would cancel its processing, and the will be published.
            await asyncio.Event().wait()
        while True:
            while not self._packets:
                if not await self._receive():
                    await self._finish()
                    return None
            packet = self._packets.popleft()
            kind = packet_type(packet)
            if kind == PacketType.PUBACK:
                self._writer.acknowledged(puback_id(packet))
                continue
            if kind == PacketType.PUBLISH:
                await self._room.wait()
                self._in_progress += 1
                self._idle.clear()
                if self._in_progress >= MAX_IN_PROGRESS:
                    self._room.clear()
            elif kind == PacketType.DISCONNECT:
                await self._finish()
                self._goodbye = True
            return packet

    async def _finish(self) -> None:
        # amqtt forgets the messages that it has not worked off when a session ends, also an orderly one.
        try:
            async with asyncio.timeout(LAST_WORDS_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("messages of a closed connection were not processed", extra={"action": "messages_stuck"})

    async def _receive(self) -> bool:
        """Read one WebSocket message; False when there will be no more."""
        if self._ended:
            return False
        try:
            # What came together with CONNECT is still in the splitter.
            self._take(b"")
            if self._packets:
                return True
            async with asyncio.timeout(self._silence_s):
                message = await self._websocket.recv()
            if isinstance(message, bytes):
                self._take(message)
            else:
                self._end("a text message; MQTT is binary")  # [MQTT-6.0.0-1]
        except TimeoutError:
            self._end(f"silent for {self._silence_s:g} s, longer than 1.5 x its keep alive")
        except PacketError as error:
            self._end(str(error))
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code not in _ORDERLY:
                self._end(closed.sent.reason or f"WebSocket error {closed.sent.code}")
            self._ended = True
        return not self._ended

    def _take(self, data: bytes) -> None:
        for packet in self._splitter.feed(data):
            check_client_packet(packet)
            self._packets.append(packet)

    def _end(self, reason: str) -> None:
        self._ended = True
        self._writer.drop(reason)
