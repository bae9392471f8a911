"""How long the broker waits, and how much it holds for its clients."""

from __future__ import annotations

from dataclasses import dataclass

from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Seconds that the broker waits, and for what."""

    #: A client's TLS handshake.
    tls_handshake_s: float = 10.0
    #: The peer's farewell on the TLS layer.
    tls_shutdown_s: float = 2.0
    #: The WebSocket handshake.
    open_s: float = 10.0
    #: The CONNECT packet.
    connect_s: float = 10.0
    #: The peer's WebSocket farewell.
    close_s: float = 2.0
    #: The end of the session of a closed connection.
    session_end_s: float = 15.0
    #: The last packets of a connection to be sent at its end.
    last_words_s: float = 5.0
    #: Some progress of a client for which too much waits.
    stalled_s: float = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What the broker holds for clients at most."""

    #: TLS handshakes at once. Connections that say nothing hold no more of our memory and descriptors than these
    #: take, and those that are quicker get through.
    handshakes: int = 2000
    #: Bytes that may wait for one client. The largest message must fit, with room for what comes beside it.
    backlog_bytes: int = MAX_MESSAGE_BYTES + 16 * 1024 * 1024
    #: Bytes that may wait in the TLS layer of one client. Messages wait elsewhere: these are answers to pings that
    #: the client does not read.
    unread_bytes: int = 4 * 1024 * 1024
    #: Messages to one client that are not acknowledged: as many as there are packet ids [MQTT-2.3.1-1].
    unacknowledged: int = 65535
