"""The supervisor's way to the Execution API: HTTP to its worker's unix socket.

Runs in the supervisor's process. The worker may be restarted at any time: a call that finds no socket, or whose
connection breaks, is made again with the same ``X-Request-Id`` until it is answered, so that it counts once.
"""

from __future__ import annotations

import ssl
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Final

import httpx

#: What the client believes the Execution API's address to be; the socket decides where calls go.
BASE_URL: Final = "http://edge-worker/execution/"
#: Names a call, whichever connection it comes on.
REQUEST_ID_HEADER: Final = "x-request-id"
#: There when a call was made before, and its connection broke before it was answered.
REPEATED_HEADER: Final = "x-request-repeated"
#: Seconds between attempts to reach the socket: short at first (a broken keep-alive connection), then no load.
FIRST_RETRY_S: Final = 0.02
LAST_RETRY_S: Final = 1.0
#: A unix socket needs no TLS; given one, httpx does not load the machine's authorities for nothing (15 ms a task).
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class WorkerTransport(httpx.BaseTransport):
    """Sends every request to the worker's unix socket, again and again until it is answered."""

    def __init__(self, socket_path: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
        self._socket_path = socket_path
        self._sleep = sleep
        self._inner = self._connect()

    def _connect(self) -> httpx.HTTPTransport:
        # One connection is all that a supervisor needs: it makes one call at a time.
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=None)
        return httpx.HTTPTransport(uds=str(self._socket_path), limits=limits, verify=_NO_TLS, trust_env=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make the call and read the whole answer."""
        request.headers[REQUEST_ID_HEADER] = uuid.uuid4().hex
        body = request.read()
        wait_s = FIRST_RETRY_S
        while True:
            attempt = httpx.Request(
                request.method, request.url, headers=request.headers, content=body, extensions=request.extensions
            )
            # httpcore forgets to close a socket that it could not connect: look before.
            if self._socket_path.exists():
                try:
                    response = self._inner.handle_request(attempt)
                    content = response.read()
                    return httpx.Response(response.status_code, headers=response.headers, content=content)
                except httpx.ConnectError:
                    pass
                except httpx.TransportError:
                    request.headers[REPEATED_HEADER] = "1"
            self._sleep(wait_s)
            wait_s = min(wait_s * 2, LAST_RETRY_S)

    def close(self) -> None:
        """Close the connection."""
        self._inner.close()
