"""The supervisor's way to the Execution API: HTTP to its worker's unix socket.

Runs in the supervisor's process. The worker may be restarted at any time: a call that finds no socket, or whose
connection breaks, is made again with the same ``X-Request-Id`` until it is answered, so that it counts once.

The connection is the standard library's: on a socket of our own machine it takes a third of the CPU of httpx's.
"""

from __future__ import annotations

import http.client
import re
import socket
import time
import uuid
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

import httpx

from edge_mqtt.worker.ipc.api_contract import REPEATED_HEADER, REQUEST_ID_HEADER, ROOT

#: Seconds between attempts to reach the socket: short at first (a broken keep-alive connection), then no load.
FIRST_RETRY_S: Final = 0.02
LAST_RETRY_S: Final = 1.0
#: Seconds after the worker's last answer in which a heartbeat would tell neither side anything. Airflow's supervisor
#: makes one the moment its task has been permitted to start. Well below the shortest time between two of them (1 s).
HEARTBEAT_SPARED_S: Final = 0.5
#: Airflow's own name for a call's id (``add_correlation_id`` in airflow.sdk api/client.py).
CORRELATION_ID_HEADER: Final = "correlation-id"
_HEARTBEAT: Final = re.compile(rf"{ROOT}task-instances/[^/?]+/heartbeat".encode())


class _UnixConnection(http.client.HTTPConnection):
    """HTTP/1.1 on a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("edge-worker")
        self._path = path

    def connect(self) -> None:
        """Connect.

        :raises OSError: no worker listens.
        """
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.connect(str(self._path))
        except OSError:
            connecting.close()
            raise
        self.sock = connecting


class WorkerTransport(httpx.BaseTransport):
    """Sends every request to the worker's unix socket, again and again until it is answered."""

    def __init__(
        self,
        socket_path: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = _UnixConnection(socket_path)
        self._sleep = sleep
        self._clock = clock
        self._answered_at: float | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Make the call and read the whole answer."""
        if self._is_spared(request):
            return httpx.Response(HTTPStatus.NO_CONTENT)
        # Airflow gives every call an id of its own: one id is enough, on the wire too.
        request_id = request.headers.get(CORRELATION_ID_HEADER) or uuid.uuid4().hex
        headers = {**request.headers, REQUEST_ID_HEADER: request_id}
        body = request.read()
        wait_s = FIRST_RETRY_S
        while (response := self._attempt(request, headers, body)) is None:
            self._sleep(wait_s)
            wait_s = min(wait_s * 2, LAST_RETRY_S)
        self._answered_at = self._clock()
        return response

    def _is_spared(self, request: httpx.Request) -> bool:
        if self._answered_at is None or self._clock() - self._answered_at >= HEARTBEAT_SPARED_S:
            return False
        return request.method == "PUT" and _HEARTBEAT.fullmatch(request.url.raw_path) is not None

    def _attempt(self, request: httpx.Request, headers: dict[str, str], body: bytes) -> httpx.Response | None:
        """Return the answer; None when there was none, with what the next attempt is to say of it in ``headers``."""
        connection = self._connection
        try:
            if connection.sock is None:
                connection.connect()
        except OSError:
            return None
        try:
            connection.request(request.method, request.url.raw_path.decode("ascii"), body or None, headers)
        except (OSError, http.client.HTTPException):
            # The worker has not got it whole, and so has not passed it on: the next attempt will be the first.
            connection.close()
            return None
        try:
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            headers[REPEATED_HEADER] = "1"
            return None
        return httpx.Response(response.status, headers=response.getheaders(), content=content)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
