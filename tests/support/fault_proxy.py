"""A proxy in front of the api-server that spoils a call as the test says."""

from __future__ import annotations

import http.client
import threading
from collections import deque
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from deploy.quickstart.ports import HOST

#: Seconds that a held call waits at most.
PATIENCE_S = 60.0
#: Calls that change something and say so by more than a value: what faults are for.
_SPOILED = ("/dag-runs/", "/state", "/connection-tests/")


class Fault(StrEnum):
    """What becomes of a call."""

    #: The server is never asked; the proxy answers.
    BUSY = "busy"
    BAD_GATEWAY = "bad gateway"
    GATEWAY_TIMEOUT = "gateway timeout"
    #: The connection breaks before the server is asked.
    DROPPED = "dropped"
    #: The server carries the call out; the connection breaks before its answer is passed on.
    SWALLOWED = "swallowed"
    #: As the two before, when the test says so.
    HELD_BEFORE = "held before"
    HELD_AFTER = "held after"


_STATUS = {Fault.BUSY: 503, Fault.BAD_GATEWAY: 502, Fault.GATEWAY_TIMEOUT: 504}


class FaultProxy:
    """Passes calls on, but for the next ones that change something as many faults as the test has planned."""

    def __init__(self, upstream: int) -> None:
        """Describe it; entering the context starts it.

        :param upstream: the api-server's port.
        """
        self.faults: deque[Fault] = deque()
        #: A call is held.
        self.holding = threading.Event()
        self.release = threading.Event()
        #: The calls that change something, as they came: method and path.
        self.calls: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                proxy._serve(self, upstream)

            do_POST = do_PATCH = do_PUT = do_DELETE = do_HEAD = do_GET  # noqa: N815  as the base class calls them

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fault proxy")
        self.url = f"http://{HOST}:{self._server.server_address[1]}/execution/"

    def __enter__(self) -> Self:
        """Start it."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, request: BaseHTTPRequestHandler, upstream: int) -> None:
        body = request.rfile.read(int(request.headers.get("content-length", 0)))
        fault = None
        if request.command != "GET" and any(part in request.path for part in _SPOILED):
            self.calls.append(f"{request.command} {request.path.partition('/execution/')[2]}")
            fault = self.faults.popleft() if self.faults else None
        if fault in _STATUS:
            request.send_response(_STATUS[fault])
            request.send_header("content-length", "0")
            request.end_headers()
            return
        if fault is Fault.HELD_BEFORE:
            self._hold()
        if fault in (Fault.DROPPED, Fault.HELD_BEFORE):
            request.close_connection = True
            return
        answer, content = _ask(upstream, request, body)
        if fault is Fault.HELD_AFTER:
            self._hold()
        if fault in (Fault.SWALLOWED, Fault.HELD_AFTER):
            request.close_connection = True
            return
        request.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "date", "server", "transfer-encoding"):
                request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)

    def _hold(self) -> None:
        self.holding.set()
        assert self.release.wait(PATIENCE_S)


def _ask(port: int, request: BaseHTTPRequestHandler, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=PATIENCE_S)
    try:
        connection.request(request.command, request.path, body or None, dict(request.headers))
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()
