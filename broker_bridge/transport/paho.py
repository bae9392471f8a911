"""The transport over WebSockets and TLS, for executors, workers and operators.

paho's own reconnecting is not used: it keeps queued messages across connections and starts at once again after a
refusal. Here every attempt has a paho client of its own, so that nothing survives a connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Final, Protocol

from edge_mqtt.broker_bridge.transport import refusals
from edge_mqtt.broker_bridge.transport.backoff import Backoff
from edge_mqtt.broker_bridge.transport.endpoint import InvalidUrl, parse_url
from edge_mqtt.broker_bridge.transport.idle_limit import IdleLimit
from edge_mqtt.broker_bridge.transport.interface import PacketReceiver
from edge_mqtt.broker_bridge.transport.paho_connection import (
    Connection,
    ConnectOptions,
    Lost,
    NameInUse,
    Refused,
)
from edge_mqtt.certs.tls import explain_tls_error

__all__ = ["ConnectOptions", "PahoTransport"]

log = logging.getLogger(__name__)


#: Seconds between looks at whether our certificate expires soon, while a connection lasts.
EXPIRY_LOOK_S: Final = 3600.0


class SslContexts(Protocol):
    """Where TLS contexts come from: :class:`~edge_mqtt.certs.renewal.CurrentContext`."""

    def __call__(self) -> ssl.SSLContext:
        """Return the context for a new connection."""

    def warn_of_expiry(self) -> None:
        """Warn of a certificate that expires soon, if it is time to."""


class PahoTransport:
    """Keeps up one WSS connection to a broker, for ever.

    :param url: ``wss://host[:port]/mqtt``.
    :param ssl_contexts: gives each connection a context that has our certificate and checks the server's.
    :raises InvalidUrl: the URL is not of that form.
    """

    def __init__(self, url: str, ssl_contexts: SslContexts, options: ConnectOptions) -> None:
        self._url = url
        self._endpoint = parse_url(url)
        self._ssl_contexts = ssl_contexts
        self._expiry_look_at = time.monotonic() + EXPIRY_LOOK_S
        self._options = options
        self._timing = options.timing
        self._backoff = Backoff(options.timing, uniform=random.uniform)
        self._idle_limit = IdleLimit(options.keep_alive_s, shortest_s=options.timing.shortest_idle_limit_s)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        #: The present attempt, and the same once its subscriptions are acknowledged.
        self._current: Connection | None = None
        self._live: Connection | None = None
        self._connection = 0
        self._live_since: float | None = None
        self._name_in_use_since: float | None = None
        _TRANSPORTS.add(self)
        _close_in_children()

    @property
    def connection(self) -> int:
        """How many connections there have been, the present one included."""
        return self._connection

    def start(self, receiver: PacketReceiver) -> None:
        """Begin connecting in a thread of our own."""
        identity = self._options.identity
        name = f"{identity.role}[{identity.name}].transport"
        self._thread = threading.Thread(target=self._run, args=(receiver,), name=name, daemon=True)
        self._thread.start()

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool = False) -> bool:
        """Send one packet; False, and nothing sent, while there is no connection. Thread-safe, never blocks."""
        live = self._live
        if live is None:
            return False
        is_sent = live.publish(topic, payload, qos=qos, retain=retain)
        # Also when it is not: then the thread ends the connection.
        self._wake()
        return is_sent

    def publish_large(self, topic: str, fragments: Sequence[bytes], *, errand: Hashable) -> bool:
        """Send a message in fragments in its turn; False, and nothing sent, while there is no connection."""
        live = self._live
        if live is None:
            return False
        live.publish_large(topic, fragments, errand)
        self._wake()
        return True

    @property
    def is_busy(self) -> bool:
        """Whether large messages wait or are on the way."""
        live = self._live
        return live is not None and live.is_busy

    def stop(self) -> None:
        """Say goodbye and end the thread."""
        self._stopping.set()
        self._wake()
        thread = self._thread
        if thread is None:
            self._close_wake()
        elif thread is not threading.current_thread():
            thread.join(self._timing.stop_s)

    def close_in_child(self) -> None:
        """Let go of the connection in a process that was forked from ours: it would keep the socket open."""
        self._live = None
        if self._current is not None:
            self._current.close_in_child()
        self._close_wake()

    def _wake(self) -> None:
        # Full means that the thread is about to wake; closed means that it has ended.
        with contextlib.suppress(BlockingIOError, OSError):
            self._wake_write.send(b"\0")

    def _close_wake(self) -> None:
        self._wake_read.close()
        self._wake_write.close()

    def _run(self, receiver: PacketReceiver) -> None:
        try:
            while not self._stopping.is_set():
                wait_s = self._attempt(receiver)
                if wait_s is None:
                    return
                self._stopping.wait(wait_s)
        finally:
            self._close_wake()

    def _attempt(self, receiver: PacketReceiver) -> float | None:
        """Connect and serve until the end; return the seconds to wait before the next attempt, None for no next."""
        self._live_since = None
        try:
            reason = self._connect_and_serve(receiver)
        except Refused as error:
            refusal = error.refusal
            _tell(lambda: receiver.refused(refusal))
            return None
        except NameInUse:
            return self._wait_for_name(receiver)
        except Exception:
            # An error of ours must not end the thread in silence: the program would look alive and hear nothing.
            log.exception("connection attempt failed unexpectedly", extra={"action": "connect_failed"})
            reason = "internal error"
        if self._stopping.is_set():
            return None
        now = time.monotonic()
        wait_s = self._backoff.next_wait(now, served_s=0.0 if self._live_since is None else now - self._live_since)
        log.warning(
            "no connection to %s: %s; next attempt in %.1f s",
            self._url,
            reason,
            wait_s,
            extra={"action": "connect_retry", "reason": reason, "wait_s": round(wait_s, 1)},
        )
        return wait_s

    def _wait_for_name(self, receiver: PacketReceiver) -> float | None:
        now = time.monotonic()
        if self._name_in_use_since is None:
            self._name_in_use_since = now
            log.warning(
                "%s is still connected to %s; waiting for that connection to end",
                self._options.identity,
                self._url,
                extra={"action": "name_in_use"},
            )
        # A connection that died without a word is found out by the broker within 1.5 x keep alive.
        if now - self._name_in_use_since > 2 * self._options.keep_alive_s:
            refusal = refusals.name_in_use(self._options.identity.client_id, url=self._url)
            _tell(lambda: receiver.refused(refusal))
            return None
        return min(self._timing.name_in_use_wait_s, self._backoff.next_wait(now))

    def _connect_and_serve(self, receiver: PacketReceiver) -> str:
        number = self._connection + 1
        self._current = connection = Connection(
            self._url, self._ssl_contexts(), self._options, number, keep_alive_s=self._idle_limit.keep_alive_s
        )
        connection.on_round = self._look_at_expiry
        early: list[tuple[str, bytes]] = []
        connection.on_message = lambda topic, payload: early.append((topic, payload))

        def received(topic: str, payload: bytes) -> None:
            _tell(lambda: receiver.received(topic, payload))

        def subscribed() -> None:
            self._name_in_use_since = None
            self._live = connection
            self._live_since = time.monotonic()
            log.debug("connected to %s", self._url, extra={"action": "connected", "connection": number})
            _tell(receiver.connected)
            for topic, payload in early:
                received(topic, payload)
            connection.on_message = received

        reason = "stopped"
        try:
            connection.open(self._endpoint)
            self._connection = number
            connection.serve(self._wake_read, self._stopping, subscribed)
            self._live = None
            connection.say_goodbye()
        except (OSError, InvalidUrl, Lost) as error:
            refusal = refusals.from_connect_error(error, url=self._url, was_there=self._connection > 0)
            if refusal is not None:
                raise Refused(refusal) from error
            reason = explain_tls_error(error) if isinstance(error, OSError) else str(error)
        finally:
            self._learn_from_end(connection.ended_after_s)
            was_live, self._live = self._live is not None, None
            connection.close()
            self._current = None
            if was_live:
                _tell(lambda: receiver.disconnected(reason))
        return reason

    def _look_at_expiry(self) -> None:
        now = time.monotonic()
        if now >= self._expiry_look_at:
            self._expiry_look_at = now + EXPIRY_LOOK_S
            self._ssl_contexts.warn_of_expiry()

    def _learn_from_end(self, silence_s: float | None) -> None:
        if self._idle_limit.learn_from_end(silence_s):
            log.warning(
                "the connection to %s was ended twice after %.0f s of silence: something on the way, a proxy, "
                "a firewall or a balancer, ends idle ones. A sign of life is sent every %d s from now on; set "
                "[edge_mqtt] keep_alive to that",
                self._url,
                silence_s,
                self._idle_limit.keep_alive_s,
                extra={"action": "idle_limit_met", "keep_alive_s": self._idle_limit.keep_alive_s},
            )


def _tell(call: Callable[[], None]) -> None:
    try:
        call()
    except Exception:
        # The receiver's mistake must not take the connection down.
        log.exception("a receiver failed", extra={"action": "receiver_failed"})


#: Every transport of this process, to be let go of in its forks.
_TRANSPORTS: weakref.WeakSet[PahoTransport] = weakref.WeakSet()


@cache
def _close_in_children() -> None:
    """See to it, once, that no process that is forked from here has a connection of ours.

    Only where there is one: what is registered cannot be taken back, and a task's forks are its own business.
    """
    os.register_at_fork(after_in_child=_after_fork_in_child)


def _after_fork_in_child() -> None:
    for transport in list(_TRANSPORTS):
        transport.close_in_child()
