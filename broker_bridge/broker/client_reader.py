"""The end of a client's connection that receives: what arrives is worked off at once.

amqtt gets the packets that begin and end a session, through its reader and writer. What comes in between (messages,
subscriptions, pings) would take it five tasks a connection and one more a packet; here it goes straight to the
broker. amqtt's own WebSocket adapter repeats the last message when a connection closes in mid-packet, and waits for
ever for a silent client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from amqtt.adapters import ReaderAdapter
from websockets.frames import CloseCode

from edge_mqtt.broker_bridge.broker.client_writer import ClientWriter
from edge_mqtt.broker_bridge.broker.packets import (
    PINGRESP,
    PacketError,
    PacketSplitter,
    PacketType,
    Publish,
    build_puback,
    build_suback,
    build_unsuback,
    check_client_packet,
    packet_type,
    parse_publish,
    parse_subscribe,
    puback_id,
)
from edge_mqtt.broker_bridge.broker.tls_connection import TlsConnection
from edge_mqtt.certs.identity import Identity

#: Silence of this many keep alives ends a connection [MQTT-3.1.2-24].
SILENCE_FACTOR: Final = 1.5
#: Packets of one client that are worked off in one round of the event loop: then it is the turn of the others. One
#: WebSocket message may have hundreds of thousands of them.
PACKETS_A_TURN: Final = 200
#: Ends of a WebSocket connection that are nobody's mistake.
_ORDERLY: Final = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY})


class BrokerOperations(Protocol):
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
        exchange: BrokerOperations,
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
