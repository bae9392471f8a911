"""The end of a client's connection that receives: what arrives is worked off at once.

A session hears of a client's goodbye and of its end. What comes in between (messages, subscriptions, pings) goes
straight to the router, with no task and no queue.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from websockets.frames import CloseCode

from edge_mqtt.broker_bridge.broker.client_writer import ClientWriter
from edge_mqtt.broker_bridge.broker.packets import (
    PINGRESP,
    PacketError,
    PacketSplitter,
    PacketType,
    build_puback,
    build_suback,
    build_unsuback,
    check_client_packet,
    packet_type,
    parse_publish,
    parse_subscribe,
    puback_id,
)
from edge_mqtt.broker_bridge.broker.router import TopicRouter
from edge_mqtt.broker_bridge.broker.tls_connection import TlsConnection
from edge_mqtt.certs.identity import Identity

#: Silence of this many keep alives ends a connection [MQTT-3.1.2-24].
SILENCE_FACTOR: Final = 1.5
#: Packets of one client that are worked off in one round of the event loop: then it is the turn of the others. One
#: WebSocket message may have hundreds of thousands of them.
PACKETS_A_TURN: Final = 200
#: Ends of a WebSocket connection that are no fault.
_ORDERLY: Final = frozenset({CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY})


class Session(Protocol):
    """What begins and ends with a client's connection."""

    def say_goodbye(self, packet: bytes) -> None:
        """Take the client's DISCONNECT: the end that follows is an orderly one."""

    def end(self) -> None:
        """Take note that the connection has ended without a DISCONNECT."""


class ClientReader:
    """Works off what one client sends, from the moment on when its session is set up.

    :param splitter: has what came after CONNECT.
    :param keep_alive_s: the client's, in seconds.
    """

    def __init__(
        self,
        connection: TlsConnection,
        splitter: PacketSplitter,
        router: TopicRouter,
        *,
        identity: Identity,
        keep_alive_s: float,
        writer: ClientWriter,
    ) -> None:
        self._connection = connection
        self._splitter = splitter
        self._router = router
        self._identity = identity
        self._writer = writer
        self._silence_s = keep_alive_s * SILENCE_FACTOR
        self._heard_at = connection.loop.time()
        self._silence: asyncio.TimerHandle | None = None
        self._session: Session | None = None
        self._said_goodbye = False
        self._ended = False
        #: The others have their turn; packets wait in the splitter.
        self._resting = False
        self._lost_while_resting = False

    # ------------------------------------------------------------ the session

    def start(self, session: Session) -> None:
        """Work off what has come and what comes: ``session`` is set up."""
        # Two rounds later it is waiting for packets and for the end.
        self._connection.loop.call_soon(self._connection.loop.call_soon, self._start, session)

    def _start(self, session: Session) -> None:
        self._session = session
        self._watch_silence()
        self._connection.receive_with(self)

    def _watch_silence(self) -> None:
        due = self._heard_at + self._silence_s
        if self._connection.loop.time() < due:
            self._silence = self._connection.loop.call_at(due, self._watch_silence)
        elif not self._ended:
            self._end(f"silent for {self._silence_s:g} s, longer than 1.5 x its keep alive")

    # ------------------------------------------------------------ FrameReceiver

    def accept_data(self, data: bytes) -> None:
        """Work off what has arrived."""
        self._heard_at = self._connection.loop.time()
        self._splitter.add(data)
        if not self._resting:
            self._take_turn()

    def accept_text(self) -> None:
        """End the connection: MQTT is binary [MQTT-6.0.0-1]."""
        if not self._ended:
            self._end("a text message; MQTT is binary")

    def resume_sending(self) -> None:
        """Send what waits."""
        self._writer.flush()

    def connection_lost(self) -> None:
        """Tell the session that the connection has ended, once what came before is worked off."""
        if self._resting and not self._ended:
            self._lost_while_resting = True
            return
        closed = self._connection.protocol.close_sent
        if closed is not None and closed.code not in _ORDERLY and not self._ended:
            self._end(closed.reason or f"WebSocket error {closed.code}")
        self._end_session()
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
            self.connection_lost()

    def _work_off(self, packet: bytes) -> None:
        kind = packet_type(packet)
        if kind == PacketType.PUBLISH:
            message = parse_publish(packet)
            self._router.publish_from(self._identity, message)
            if message.packet_id is not None:
                self._writer.write(build_puback(message.packet_id))
            return
        check_client_packet(packet)
        if kind == PacketType.PUBACK:
            self._writer.record_ack(puback_id(packet))
        elif kind == PacketType.PINGREQ:
            self._writer.write(PINGRESP)
        elif kind == PacketType.DISCONNECT:
            self._said_goodbye = True
            if self._session is not None:
                self._session.say_goodbye(packet)
        else:
            self._subscribe(packet)

    def _subscribe(self, packet: bytes) -> None:
        asked = parse_subscribe(packet)
        if packet_type(packet) == PacketType.UNSUBSCRIBE:
            for topic_filter, _ in asked.filters:
                self._router.unsubscribe(topic_filter, self._writer)
            self._writer.write(build_unsuback(asked.packet_id))
            return
        codes = self._router.subscribe_from(self._identity, self._writer, asked.filters)
        self._writer.write(build_suback(asked.packet_id, codes))
        for (topic_filter, qos), code in zip(asked.filters, codes, strict=True):
            if code <= qos:
                self._router.send_retained(topic_filter, self._writer, code)

    def _end(self, reason: str) -> None:
        self._end_session()
        self._writer.drop(reason)

    def _end_session(self) -> None:
        self._ended = True
        # An end right behind DISCONNECT would cut the goodbye short, and the will be published.
        if self._session is not None and not self._said_goodbye:
            self._session.end()
