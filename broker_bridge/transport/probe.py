"""Tries whether there can be a connection, by one."""

from __future__ import annotations

import socket
import ssl
import threading

from edge_mqtt.broker_bridge.transport.endpoint import parse_url
from edge_mqtt.broker_bridge.transport.paho_connection import Connection, ConnectOptions, Lost, NameInUse, Refused

__all__ = ["Lost", "NameInUse", "Refused", "probe_connection"]


def probe_connection(url: str, ssl_context: ssl.SSLContext, options: ConnectOptions) -> None:
    """Connect, subscribe and say goodbye.

    :raises InvalidUrl: the URL, or the proxy's, is not of the form that it must have.
    :raises NameInUse: another program is connected under our name.
    :raises Refused: the broker does not accept us, or not on these topics.
    :raises Lost: the connection ended before that was clear.
    :raises OSError: of the socket, TLS, the proxy or the WebSocket handshake.
    """
    connection = Connection(url, ssl_context, options, 1, keep_alive_s=options.keep_alive_s)
    subscribed = threading.Event()
    wake, waker = socket.socketpair()
    with wake, waker:
        try:
            connection.open(parse_url(url))
            connection.serve(wake, subscribed, subscribed.set)
            connection.say_goodbye()
        finally:
            connection.close()
