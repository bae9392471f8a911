"""The TLS handshakes that go on: bounded, and each that fails is logged with its reason."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from typing import Final

from edge_mqtt.broker_bridge.broker.asyncio_internals import ServerTlsLayer
from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from edge_mqtt.certs.tls import clock_note

log = logging.getLogger(__name__)

#: Seconds between two lines in the log about too many handshakes.
CROWD_LOG_INTERVAL_S: Final = 60.0

#: Told of a connection that ends before it is one: peer address, reason.
Refused = Callable[[str, str], None]


def peer_name(transport: asyncio.BaseTransport) -> str:
    """Return the peer's address and port for a log line."""
    peer = transport.get_extra_info("peername")
    return f"{peer[0]}:{peer[1]}" if peer else "an unknown address"


class Handshakes:
    """No more than the limit at a time, and none outlives the listener. One event loop's.

    :param contexts: gives each connection a server's context, which asks for the client's certificate.
    :param refused: told when a handshake fails.
    """

    def __init__(
        self, contexts: Callable[[], ssl.SSLContext], refused: Refused, *, timing: Timing, limits: Limits
    ) -> None:
        self._timeout_s = timing.tls_handshake_s
        self._limit = limits.handshakes
        self._tls = ServerTlsLayer(
            contexts, handshake_timeout_s=timing.tls_handshake_s, shutdown_timeout_s=timing.tls_shutdown_s
        )
        self._refused = refused
        #: In the order in which they began.
        self._running: dict[asyncio.Future[None], asyncio.Transport] = {}
        self._logged_at = -CROWD_LOG_INTERVAL_S
        self._closed = False

    def __len__(self) -> int:
        return len(self._running)

    def begin(self, connection: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Begin the handshake on a connection that has just been made; give the oldest up when there are too many.

        :param protocol: is told ``connection_made`` again, with the TLS transport, when the handshake is done.
        """
        if self._closed:
            connection.set_protocol(asyncio.Protocol())  # No end is told of what has not begun.
            connection.abort()
            return
        loop = asyncio.get_running_loop()
        if len(self._running) >= self._limit:
            self._running.pop(next(iter(self._running))).abort()
            self._log_crowd(loop.time())
        peer, began = peer_name(connection), loop.time()

        def ended(handshake: asyncio.Future[None]) -> None:
            self._running.pop(handshake, None)
            error = handshake.exception()
            if isinstance(error, ssl.SSLError):
                self._refused(peer, _explain(error))
            elif error is not None and loop.time() - began >= self._timeout_s:
                self._refused(peer, f"no TLS handshake within {self._timeout_s:g} s")

        handshake = self._tls.begin(connection, protocol)
        self._running[handshake] = connection
        handshake.add_done_callback(ended)

    def _log_crowd(self, now: float) -> None:
        if now - self._logged_at >= CROWD_LOG_INTERVAL_S:
            self._logged_at = now
            log.warning(
                "more than %d connections are in their TLS handshake: the oldest are given up. "
                "If these are no workers, let a firewall keep them away",
                self._limit,
                extra={"action": "handshakes_crowded"},
            )

    async def close(self) -> None:
        """End them all and let none begin."""
        self._closed = True
        running = dict(self._running)
        for connection in running.values():
            connection.abort()
        if running:
            await asyncio.wait(running)


def _explain(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}{clock_note(error)}"
    if error.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "it has no client certificate"
    return f"the TLS handshake failed: {(error.reason or str(error)).replace('_', ' ').lower()}"
