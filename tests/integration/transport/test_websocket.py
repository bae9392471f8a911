"""Opening a WebSocket to a server that does not want one."""

from __future__ import annotations

import gc
import socket
import ssl
import struct

import pytest

from edge_mqtt.broker_bridge.transport.endpoint import Endpoint
from edge_mqtt.broker_bridge.transport.websocket import open_websocket

#: On, and zero seconds: closing sends a reset.
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def test_a_connection_that_is_reset_before_tls_begins_leaves_nothing_open() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def reset(_sock: socket.socket) -> None:
            accepted, _ = server.accept()
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            accepted.close()

        with pytest.raises(ConnectionResetError):
            open_websocket(
                Endpoint("localhost", port, "/mqtt"),
                ssl.create_default_context(),
                proxy=None,
                timeout_s=5.0,
                opened=reset,
            )
        # A socket that is left open warns when it is collected, and warnings are errors here.
        gc.collect()
