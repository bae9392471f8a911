"""One WebSocket connection by paho: from its first packet to its end. The only importer of paho.

paho's own thread is not used, so one thread owns the socket: others only append to paho's queue.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_mqtt.broker_bridge.protocol.codec import encode
from edge_mqtt.broker_bridge.transport import refusals
from edge_mqtt.broker_bridge.transport.endpoint import Endpoint, proxy_for
from edge_mqtt.broker_bridge.transport.interface import Refusal, Will
from edge_mqtt.broker_bridge.transport.keepalive import ANSWER_WITHIN, KeepAlive
from edge_mqtt.broker_bridge.transport.timing import Timing
from edge_mqtt.broker_bridge.transport.turn_queue import TurnQueue
from edge_mqtt.broker_bridge.transport.websocket import WebSocket, open_websocket
from edge_mqtt.certs.identity import Identity


@dataclass(frozen=True, kw_only=True)
class ConnectOptions:
    """What connects, and what for."""

    identity: Identity
    #: A new one at every start of the program: tells a reconnect from a second program with the same name.
    incarnation: str
    #: Seconds without traffic after which the connection is checked.
    keep_alive_s: int
    #: Topic filters to receive.
    subscriptions: tuple[str, ...]
    #: Returns the last will for the given connection number.
    will: Callable[[int], Will | None] = lambda _: None
    timing: Timing = field(default_factory=Timing)


class _Client(mqtt.Client):
    """paho's client on a connection that is already there."""

    websocket: mqtt.SocketLike

    def _create_socket(self) -> mqtt.SocketLike:
        return self.websocket


class Lost(Exception):
    """The connection ended, or never came to be; another attempt may succeed."""


class Ended(Lost):
    """The connection was ended by the other side, or on the way."""

    def __init__(self) -> None:
        super().__init__("ended by the other side or the network")


class NameInUse(Exception):
    """CONNACK 2."""


class Refused(Exception):
    """The broker does not accept us."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Connection:
    """One connection, from its first packet to its end. Used by the transport's thread, but for ``publish``."""

    def __init__(
        self, url: str, context: ssl.SSLContext, options: ConnectOptions, number: int, *, keep_alive_s: int
    ) -> None:
        self._url = url
        self._keep_alive_s = keep_alive_s
        self._options = options
        self._timing = options.timing
        self._attempted = False
        self._connack: ReasonCode | None = None
        self._suback: list[ReasonCode] | None = None
        self._context = context
        self._websocket: WebSocket | None = None
        #: Closed in forks of this process; there from the first moment on.
        self._socket: socket.socket | None = None
        self._saying_goodbye = False
        #: The broker has said that it ends the connection.
        self._was_closed = False
        #: Seconds in which nothing had come or gone when the connection was ended on the way; None: it was not.
        self.ended_after_s: float | None = None
        self._full = False
        self._large = TurnQueue()
        self._large_lock = threading.Lock()
        #: Fragments without their PUBACK, in order.
        self._fragments: deque[mqtt.MQTTMessageInfo] = deque()
        #: Called with every message.
        self.on_message: Callable[[str, bytes], None] = lambda _topic, _payload: None
        #: Called now and then while the connection lasts.
        self.on_round: Callable[[], None] = lambda: None
        self._client = self._make_client(number)

    def _make_client(self, number: int) -> _Client:
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._options.identity.client_id,
            clean_session=True,
            protocol=mqtt.MQTTv311,
        )
        client.username_pw_set(self._options.incarnation)
        # 0 is "without limit": a QoS 1 message never waits for the acknowledgement of another.
        client.max_inflight_messages_set(0)
        will = self._options.will(number)
        if will is not None:
            (payload,) = encode(will.message)
            client.will_set(will.topic, payload, qos=1, retain=True)
        client.on_pre_connect = self._before_connect
        client.on_connect = self._on_connack
        client.on_subscribe = self._on_suback
        client.on_message = lambda _client, _userdata, message: self.on_message(message.topic, bytes(message.payload))
        client.on_socket_close = self._on_socket_close
        # With this set, paho leaves writing to the thread that owns the socket.
        client.on_socket_register_write = lambda _client, _userdata, _socket: None
        return client

    # ------------------------------------------------------------ paho's callbacks

    def _before_connect(self, _client: mqtt.Client, _userdata: object) -> None:
        if self._attempted:
            # paho answers CONNACK 1 with a second attempt that speaks an older MQTT.
            raise Refused(refusals.wrong_version(url=self._url))
        self._attempted = True

    def _on_connack(
        self, client: mqtt.Client, _userdata: object, _flags: object, code: ReasonCode, _properties: Properties | None
    ) -> None:
        self._connack = code
        if code.is_failure:
            return
        if self._options.subscriptions:
            client.subscribe([(topic_filter, 1) for topic_filter in self._options.subscriptions])
        else:
            self._suback = []

    def _on_suback(
        self, _client: mqtt.Client, _userdata: object, _mid: int, codes: list[ReasonCode], _props: Properties | None
    ) -> None:
        self._suback = codes

    def _on_socket_close(self, _client: mqtt.Client, _userdata: object, _sock: mqtt.SocketLike) -> None:
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            self._was_closed = websocket.was_closed
            websocket.end(linger_s=self._timing.goodbye_s if self._saying_goodbye else 0.0)

    # ------------------------------------------------------------ the thread's side

    def open(self, endpoint: Endpoint) -> None:
        """Connect and send CONNECT.

        :raises OSError: of the socket, TLS, the proxy or the WebSocket handshake.
        :raises InvalidUrl: of the proxy.
        """
        self._websocket = open_websocket(
            endpoint,
            self._context,
            proxy=proxy_for(endpoint.host),
            timeout_s=self._timing.connect_s,
            opened=self._opened,
        )
        self._client.websocket = self._websocket
        self._client.connect(endpoint.host, endpoint.port, keepalive=self._keep_alive_s)

    def _opened(self, sock: socket.socket) -> None:
        self._socket = sock
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # A host that no longer acknowledges what we send is noticed sooner than by our own pings.
            limit_ms = int(self._keep_alive_s * ANSWER_WITHIN * 1000)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, limit_ms)

    def serve(self, wake: socket.socket, stopping: threading.Event, subscribed: Callable[[], None]) -> None:
        """Read and write until the connection ends or ``stopping`` is set.

        :raises Lost: the connection ended.
        :raises NameInUse: another program has our client id.
        :raises Refused: the broker does not accept us.
        """
        poller = select.poll()
        poller.register(wake, select.POLLIN)
        now = time.monotonic()
        keep_alive = KeepAlive(self._keep_alive_s, now)
        answer_by: float | None = now + self._timing.acknowledge_s
        while not stopping.is_set():
            until = keep_alive.next_check_at() if answer_by is None else min(answer_by, keep_alive.next_check_at())
            try:
                self._step(poller, wake, max(0.0, until - now), keep_alive)
            except Ended:
                if answer_by is None and not self._was_closed:
                    self.ended_after_s = keep_alive.silence_s(time.monotonic())
                raise
            self.on_round()
            now = time.monotonic()
            if answer_by is not None and self._is_subscribed():
                answer_by = None
                subscribed()
            if answer_by is not None and now >= answer_by:
                raise Lost(f"the broker did not answer within {self._timing.acknowledge_s:g} s")
            if self._full:
                # Every packet id is taken. What was not sent is sent again after the next connect.
                raise Lost("the broker does not acknowledge what we publish")
            if keep_alive.is_lost(now):
                raise Lost("the broker does not answer to pings")

    def _step(self, poller: select.poll, wake: socket.socket, wait_s: float, keep_alive: KeepAlive) -> None:
        websocket = self._websocket
        if websocket is None:
            raise Ended
        descriptor = websocket.fileno()
        writing = websocket.unsent or self._client.want_write()
        poller.register(descriptor, select.POLLIN | (select.POLLOUT if writing else 0))
        pending = websocket.pending
        events = dict(poller.poll(0 if pending else math.ceil(wait_s * 1000)))
        if wake.fileno() in events:
            with contextlib.suppress(BlockingIOError):
                wake.recv(4096)
        if pending or events.get(descriptor, 0) & ~select.POLLOUT:
            self._check(self._client.loop_read())
            keep_alive.record_received(time.monotonic())
        websocket.flush()
        if self._client.want_write():
            self._check(self._client.loop_write())
            keep_alive.record_sent(time.monotonic())
        self._take_turns(websocket, keep_alive)
        # paho sends a ping here when one is due by its clock, which is never behind ours: its times of what came and
        # what went are taken before those of the keep alive, and the present one after it.
        now = time.monotonic()
        self._check(self._client.loop_misc())
        keep_alive.record_ping_if_due(now)

    def _take_turns(self, websocket: WebSocket, keep_alive: KeepAlive) -> None:
        """Let large messages send what they may now, one fragment at a time."""
        with self._large_lock:
            while self._fragments and self._fragments[0].is_published():
                self._large.record_ack(self._fragments.popleft().mid, time.monotonic())
            while True:
                now, urgent_wait = time.monotonic(), websocket.unsent or self._client.want_write()
                taken = self._large.next_fragment(now, urgent_wait=urgent_wait)
                if taken is None:
                    return
                topic, fragment = taken
                sent = self._client.publish(topic, fragment, 1)
                self._check(sent.rc)
                self._large.record_sent(sent.mid, len(fragment), now)
                self._fragments.append(sent)
                self._check(self._client.loop_write())
                keep_alive.record_sent(now)

    def _check(self, result: MQTTErrorCode) -> None:
        code = self._connack
        if code is not None and code.is_failure:
            client_id = self._options.identity.client_id
            if code == "Client identifier not valid":
                raise NameInUse
            if code == "Server unavailable":
                raise Lost("the broker is not available")
            raise Refused(refusals.not_authorized(client_id, url=self._url))
        if result == MQTTErrorCode.MQTT_ERR_CONN_LOST:
            raise Ended
        if result != MQTTErrorCode.MQTT_ERR_SUCCESS:
            raise Lost(mqtt.error_string(result).rstrip(".").lower())

    def _is_subscribed(self) -> bool:
        if self._suback is None:
            return False
        for topic_filter, code in zip(self._options.subscriptions, self._suback, strict=False):
            if code.is_failure:
                client_id = self._options.identity.client_id
                raise Refused(refusals.subscription_refused(topic_filter, client_id, url=self._url))
        return True

    def say_goodbye(self) -> None:
        """Send what is queued and DISCONNECT, which keeps the broker from publishing the will [MQTT-3.14.4-3]."""
        self._saying_goodbye = True
        deadline = time.monotonic() + self._timing.goodbye_s
        self._client.disconnect()
        poller = select.poll()
        while (websocket := self._websocket) is not None and time.monotonic() < deadline:
            poller.register(websocket.fileno(), select.POLLOUT)
            if poller.poll(100):
                self._client.loop_write()

    def close(self) -> None:
        """Drop the connection, without a goodbye."""
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            websocket.end(linger_s=0.0)
            websocket.close()
        self._socket = None

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Queue one packet; False when it cannot be sent on this connection."""
        result = self._client.publish(topic, payload, qos, retain).rc
        if result == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE:
            self._full = True
        return result == MQTTErrorCode.MQTT_ERR_SUCCESS

    def publish_large(self, topic: str, fragments: Sequence[bytes], errand: Hashable) -> None:
        """Queue a message in fragments: see :meth:`TurnQueue.add`."""
        with self._large_lock:
            self._large.add(topic, fragments, errand)

    @property
    def is_busy(self) -> bool:
        """Whether large messages wait or are on the way."""
        return self._large.is_busy

    def close_in_child(self) -> None:
        """Close this process's copy of the socket; the connection itself is the parent's and goes on."""
        self._websocket = None
        if self._socket is not None:
            self._socket.close()
