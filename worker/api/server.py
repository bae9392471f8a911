"""The Execution API as supervisors see it: HTTP on a unix socket, passed on to the bridge as messages.

Heartbeats are answered here. Every other call waits for its answer for as long as it takes: an outage delays a task's
calls and fails none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import socket
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from uvicorn import Config
from uvicorn.server import ServerState

from edge_mqtt.broker_bridge.protocol.errors import CannotBeSent, problem_of
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, StartRequest
from edge_mqtt.worker.bridge.clock_watch import ClockWatch, moment_now
from edge_mqtt.worker.core.centre_clock import Moment
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.log_cursor import SLOW_LINK_BYTES_PER_S
from edge_mqtt.worker.errors import StateDirError
from edge_mqtt.worker.ipc.api_contract import REPEATED_HEADER, REQUEST_ID_HEADER, ROOT, START_TARGET
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: What of a call's headers the bridge is given. Never the authorization: that one is ours. The correlation id is
#: the call's own id.
PASSED_ON: Final = frozenset({"airflow-api-version", "content-type", "traceparent", "tracestate"})
#: What of an answer's headers is about its connection and not about the answer.
_OF_THE_CONNECTION: Final = frozenset({"connection", "content-length", "keep-alive", "transfer-encoding"})
#: Seconds that an idle connection of a supervisor stays open; it makes a call a second anyway.
KEEP_ALIVE_S: Final = 3600
_HEARTBEAT: Final = re.compile(r"task-instances/[^/?]+/heartbeat")
_RUN: Final = re.compile(r"task-instances/[^/?]+/run")


@dataclass(slots=True)
class _Call:
    """A call that waits for the bridge's answer."""

    request: ApiRequest | StartRequest
    answer: asyncio.Future[ApiResponse]
    #: When the supervisor made it: the moments in it are from just before.
    made_at: Moment = field(default_factory=moment_now)
    #: When it was first sent, in seconds since boot.
    sent_at: float | None = None
    #: When it was last sent.
    repeated_at: float = 0.0

    def is_overdue(self, now: float, repeat_s: float) -> bool:
        """Tell whether it has been on its way for longer than a slow link and a quick answer take.

        :param repeat_s: seconds that a small call may take.
        """
        size = len(self.request.body) if isinstance(self.request, ApiRequest) else 0
        return now - self.repeated_at >= repeat_s + size / SLOW_LINK_BYTES_PER_S

    @property
    def starts_a_job(self) -> bool:
        """Whether its answer permits user code to run."""
        if isinstance(self.request, StartRequest):
            return True
        return self.request.method == "PATCH" and _RUN.fullmatch(self.request.target) is not None


class ExecutionApiServer:
    """Answers supervisors.

    :param stop_reason: returns why a job must not go on; None while it may.
    :param record_permission: told when a job may start: when that was asked, in seconds since boot.
    :param record_call: told whose supervisor has just made a call, or been answered.
    :param clock: knows how far this machine's clock is from the bridge's.
    :param max_call_bytes: bytes of a call's body at most.
    """

    def __init__(
        self,
        jobs: JobStore,
        link: Link,
        *,
        stop_reason: Callable[[JobId], str | None],
        record_permission: Callable[[float], None],
        record_call: Callable[[JobId], None],
        clock: ClockWatch,
        max_call_bytes: int = MAX_MESSAGE_BYTES,
        timing: WorkerTiming | None = None,
    ) -> None:
        self._jobs = jobs
        self._link = link
        self._stop_reason = stop_reason
        self._record_permission = record_permission
        self._record_call = record_call
        self._clock = clock
        self._max_call_bytes = max_call_bytes
        self._timing = timing or WorkerTiming()
        self._waiting: dict[str, _Call] = {}
        self._call_made = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._state = ServerState()

    async def serve(self, path: Path) -> None:
        """Listen on ``path``, which only our own user may use. The socket of an earlier run is replaced.

        :raises StateDirError: there can be no socket.
        """
        config = Config(
            self.app,
            interface="asgi3",
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()

        def connection() -> asyncio.Protocol:
            return config.http_protocol_class(  # type: ignore[call-arg]  # what uvicorn's own server does
                config=config, server_state=self._state, app_state={}
            )

        # uvicorn's own server would open the socket to everybody, and wake up ten times a second to look at flags.
        self._server = await asyncio.get_running_loop().create_unix_server(connection, sock=_listener(path))

    async def stop(self) -> None:
        """Close; supervisors that still run come back to the next worker."""
        if self._server is None:
            return
        self._server.close()
        for call in list(self._waiting.values()):
            call.answer.cancel()
        for protocol in list(self._state.connections):
            transport = getattr(protocol, "transport", None)
            if transport is not None:
                transport.abort()
        for task in list(self._state.tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await self._server.wait_closed()

    # ------------------------------------------------------------ the bridge's side

    def record_response(self, response: ApiResponse) -> None:
        """Take the answer to a call."""
        call = self._waiting.get(response.request_id)
        if call is None or call.answer.done():
            return
        if call.starts_a_job and call.sent_at is not None and response.status < HTTPStatus.BAD_REQUEST:
            self._record_permission(call.sent_at)
        call.answer.set_result(response)

    def resend_calls(self) -> None:
        """Send again whatever is not answered: the connection is a new one."""
        for call in self._unanswered_calls():
            self._send_call(call)

    async def repeat_calls(self) -> None:
        """Send again, for ever, what stays unanswered on a live connection."""
        while True:
            self._call_made.clear()
            if not self._waiting:
                await self._call_made.wait()
            await asyncio.sleep(self._timing.call_repeat_s)
            if self._link.ready:
                self._repeat_overdue()

    def _repeat_overdue(self) -> None:
        now = boottime()
        for call in self._unanswered_calls():
            if call.is_overdue(now, self._timing.call_repeat_s):
                request = call.request
                log.warning(
                    "a call of job %s is not answered, sending it again",
                    request.job_id,
                    extra={"action": "call_repeated", "job_id": request.job_id, "request_id": request.request_id},
                )
                self._send_call(call)

    def _unanswered_calls(self) -> list[_Call]:
        return [call for call in self._waiting.values() if not call.answer.done()]

    def jobs_with_calls(self) -> set[JobId]:
        """Return the jobs whose supervisor waits for an answer."""
        return {call.request.job_id for call in self._waiting.values()}

    def cancel_calls(self, job_id: JobId) -> None:
        """Give up the calls of a job that has ended."""
        for call in list(self._waiting.values()):
            if call.request.job_id == job_id:
                call.answer.cancel()

    # ------------------------------------------------------------ the supervisors' side

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI 3)."""
        body = await _body(receive)
        if body is None:
            # Its supervisor is gone, or makes it again.
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        response = await self._answer_request(scope, headers, body)
        content = b"" if response.status == HTTPStatus.NO_CONTENT else response.body
        fields = [(k, v) for k, v in response.headers.items() if k.lower() not in _OF_THE_CONNECTION]
        if response.status != HTTPStatus.NO_CONTENT:
            fields.append(("content-length", str(len(content))))
        raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        await send({"type": "http.response.body", "body": content})

    async def _answer_request(self, scope: Scope, headers: dict[str, str], body: bytes) -> ApiResponse:
        request_id = headers.get(REQUEST_ID_HEADER) or uuid.uuid4().hex
        job = await self._jobs.find_by_secret(headers.get("authorization", "").removeprefix("Bearer "))
        path = scope["raw_path"].decode("latin-1")
        if job is None:
            log.warning("call without a job refused", extra={"action": "call_refused"})
            return error_response(request_id, HTTPStatus.UNAUTHORIZED, "unknown_job", "no job of this worker")
        self._record_call(job.job_id)
        if not path.startswith(ROOT):
            # A key with "..", which Airflow's client takes for a way up. Airflow has nothing there either.
            root = path == ROOT.rstrip("/")
            status = HTTPStatus.TEMPORARY_REDIRECT if root else HTTPStatus.NOT_FOUND
            return error_response(request_id, status, "not_found", "not a path of the Execution API")
        target = path.removeprefix(ROOT)
        if scope["method"] == "PUT" and _HEARTBEAT.fullmatch(target):
            return self._answer_heartbeat(request_id, job.job_id)
        if target == START_TARGET:
            return await self._ask_bridge(StartRequest(request_id=request_id, job_id=job.job_id, fence=job.fence))
        return await self._pass_on(scope, headers, body, target=target, job=job, request_id=request_id)

    async def _pass_on(
        self, scope: Scope, headers: dict[str, str], body: bytes, *, target: str, job: LocalJob, request_id: str
    ) -> ApiResponse:
        if len(body) > self._max_call_bytes:
            what = f"a call of {len(body)} bytes is over the limit of {self._max_call_bytes} bytes (max_message_size)"
            return error_response(request_id, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", what)
        query = scope["query_string"].decode("latin-1")
        try:
            request = ApiRequest(
                request_id=request_id,
                job_id=job.job_id,
                fence=job.fence,
                method=scope["method"],
                target=f"{target}?{query}" if query else target,
                headers={name: value for name, value in headers.items() if name in PASSED_ON},
                body=body,
                # A worker before this one may have sent it.
                repeated=REPEATED_HEADER in headers,
            )
        except ValidationError as error:
            return error_response(request_id, HTTPStatus.BAD_REQUEST, "invalid_call", problem_of(error))
        return await self._ask_bridge(request)

    def _answer_heartbeat(self, request_id: str, job_id: JobId) -> ApiResponse:
        stop_reason = self._stop_reason(job_id)
        if stop_reason is None:
            return ApiResponse(request_id=request_id, status=HTTPStatus.NO_CONTENT)
        return error_response(request_id, HTTPStatus.GONE, "stopped", stop_reason)

    async def _ask_bridge(self, request: ApiRequest | StartRequest) -> ApiResponse:
        request_id = request.request_id
        call = self._waiting.get(request_id)
        # There is one when the supervisor lost its connection to us and asks again.
        if call is None:
            call = self._waiting[request_id] = _Call(request, asyncio.get_running_loop().create_future())
            call.answer.add_done_callback(lambda _: self._waiting.pop(request_id, None))
            self._call_made.set()
            if self._link.ready:
                self._send_call(call)
        try:
            return await asyncio.shield(call.answer)
        except asyncio.CancelledError:
            if not call.answer.cancelled():
                raise
            return error_response(request_id, HTTPStatus.GONE, "stopped", "the job has ended on this worker")
        finally:
            self._record_call(request.job_id)

    def _send_call(self, call: _Call) -> None:
        call.repeated_at = boottime()
        if call.sent_at is None:
            call.sent_at = call.repeated_at
        request = call.request
        offset_s = self._clock.offset_s(call.made_at)
        if offset_s and isinstance(request, ApiRequest):
            request = request.model_copy(update={"clock_offset_s": offset_s})
        try:
            sent = self._link.send_request(request)
        except CannotBeSent as error:
            status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
            call.answer.set_result(error_response(request.request_id, status, "too_large", str(error)))
            return
        if sent and isinstance(request, ApiRequest):
            call.request = request.model_copy(update={"repeated": True})  # Should it have to be sent again.


def _listener(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise StateDirError(f"there can be no socket at {path}: {error.strerror}. Check --state-dir") from error
    finally:
        os.umask(before)
    listener.setblocking(False)
    return listener


def error_response(request_id: str, status: HTTPStatus, reason: str, message: str) -> ApiResponse:
    """Return an error in the form of Airflow's own (``detail.reason``, ``detail.message``)."""
    detail = {"detail": {"reason": reason, "message": message}}
    return ApiResponse(
        request_id=request_id,
        status=status,
        headers={"content-type": "application/json"},
        body=json.dumps(detail).encode(),
    )


async def _body(receive: Receive) -> bytes | None:
    """Return a request's body; None when the connection ended before the body did."""
    body = bytearray()
    more = True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        body += event.get("body", b"")
        more = bool(event.get("more_body", False))
    return bytes(body)
