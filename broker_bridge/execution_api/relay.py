"""Relays the calls of supervisors on the edge to the Execution API.

A call passes only for the worker and the fence that hold the job. The ``run`` call is the start of user code: it is
recorded in the ledger before it is passed on. Calls wait while the api-server is away; a repeated call (the worker
sends it again after a reconnect) is answered from memory or joins the one under way.
"""

from __future__ import annotations

import json
import logging
from http import HTTPStatus
from typing import Final

from edge_mqtt.broker_bridge.dispatch.core.events import StartRefused
from edge_mqtt.broker_bridge.dispatch.core.lifecycle import SUPERSEDED
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.execution_api.client import ApiResult, ExecutionApiClient, InvalidCall
from edge_mqtt.broker_bridge.execution_api.endpoints import is_run, is_state
from edge_mqtt.broker_bridge.execution_api.forwarding import Forwarding, RelayLimits
from edge_mqtt.broker_bridge.execution_api.interface import EventSink, JobReader
from edge_mqtt.broker_bridge.execution_api.last_words import LastWords
from edge_mqtt.broker_bridge.execution_api.response_cache import ResponseCache
from edge_mqtt.broker_bridge.execution_api.retry import retry
from edge_mqtt.broker_bridge.execution_api.token_issuer import TokenIssuer
from edge_mqtt.broker_bridge.protocol.errors import failure_line, one_line
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, StartRequest, WorkloadType

log = logging.getLogger(__name__)

#: Airflow's answers that mean "this task should not be running" (its execution_api routes).
NOT_WANTED: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE})
#: The largest process id of Linux (its include/linux/threads.h), and room.
_MAX_PID: Final = 2**31 - 1
#: Bytes of a message that are left for an answer's header.
HEADER_BYTES: Final = 64 * 1024


class Relay:
    """Answers :class:`ApiRequest` and :class:`StartRequest`.

    :meth:`answer` may be called for many requests at once, from the one event loop that it belongs to; it waits for
    as long as the api-server or the ledger is away, and may be cancelled. Before a ``run``
    call is passed on, its start is in the ledger; before an answer with a newer token goes out, that token is. What
    fails is told in the answer, in Airflow's form; nothing is raised. A request that comes again is answered with the
    same answer, or not at all when another call under way brings it. :meth:`forget_job` drops what is kept of a job.
    """

    def __init__(
        self,
        api: ExecutionApiClient,
        jobs: JobReader,
        dispatch: EventSink,
        issuer: TokenIssuer,
        *,
        limits: RelayLimits | None = None,
        cache: ResponseCache | None = None,
    ) -> None:
        self._jobs = jobs
        self._dispatch = dispatch
        self._limits = limits or RelayLimits()
        self._forwarding = Forwarding(api, jobs, dispatch, issuer, self._limits)
        self._max_answer_bytes = min(self._limits.answer_bytes, MAX_MESSAGE_BYTES - HEADER_BYTES)
        self._last_words = LastWords(dispatch, wait_s=self._limits.retry_s)
        self._under_way: set[tuple[WorkerName, str]] = set()
        self._responses = cache or ResponseCache()
        #: Jobs whose ``run`` call is under way, or whose task has told Airflow its final state: Airflow answers
        #: heartbeats for them as if another process ran the task.
        self._muted: set[JobId] = set()
        #: Jobs of which Airflow has answered ``run`` since this bridge was started.
        self._begun: set[JobId] = set()

    def is_muted(self, job_id: JobId) -> bool:
        """Tell whether Airflow must not get heartbeats for the job now."""
        return job_id in self._muted

    def has_begun(self, job_id: JobId) -> bool:
        """Tell whether Airflow has answered the job's ``run`` call since this bridge was started."""
        return job_id in self._begun

    def forget_job(self, job_id: JobId) -> None:
        """Drop what is kept for a job that is finished."""
        self._muted.discard(job_id)
        self._begun.discard(job_id)
        self._responses.forget_job(job_id)

    async def answer(self, worker: WorkerName, request: ApiRequest | StartRequest) -> ApiResponse | None:
        """Return the answer; None when it is not waited for any more, or the same request is under way already."""
        key = (worker, request.request_id)
        kept = self._responses.get(key)
        if kept is not None:
            return kept
        if key in self._under_way or self._responses.is_outdated(request.job_id, key):
            return None
        self._under_way.add(key)
        try:
            response = await self._respond(worker, request)
        except Exception as error:  # noqa: BLE001  whoever asks must not wait for ever for what will never come
            problem = failure_line(error)
            log.error(  # noqa: TRY400  one line
                "a call failed: %s", problem, extra={"action": "call_failed", "job_id": request.job_id}
            )
            return _error_response(
                request.request_id, HTTPStatus.INTERNAL_SERVER_ERROR, "bridge_failed", f"the bridge failed: {problem}"
            )
        finally:
            self._under_way.discard(key)
        if self._forwarding.find_running(worker, request) is not None:
            self._responses.put(request.job_id, key, response)
        return response

    async def _respond(self, worker: WorkerName, request: ApiRequest | StartRequest) -> ApiResponse:
        if self._is_too_early(worker, request):
            # As Airflow answers for a task that has not started. Its supervisor asks for the connection of a remote
            # log store even before that, and goes on without it (``_configure_logging``); another answer ends it.
            message = "the task has not started: it may ask nothing else yet"
            return _error_response(request.request_id, HTTPStatus.FORBIDDEN, "not_started", message)
        refusal = await self._find_refusal(worker, request)
        if refusal is not None:
            log.warning(
                "call refused: %s",
                refusal,
                extra={"action": "call_refused", "worker": worker, "job_id": request.job_id},
            )
            return _error_response(request.request_id, HTTPStatus.CONFLICT, "not_yours", refusal)
        if isinstance(request, StartRequest):
            return ApiResponse(request_id=request.request_id, status=HTTPStatus.OK)
        try:
            result = await self._pass_on(worker, request)
        except InvalidCall as error:
            return _error_response(request.request_id, HTTPStatus.BAD_REQUEST, "invalid_call", str(error))
        return self._refuse_lost_job(request) if result is None else self._make_response(request, result)

    def _make_response(self, request: ApiRequest, result: ApiResult) -> ApiResponse:
        if len(result.body) > self._max_answer_bytes:
            message = f"the answer of {len(result.body)} bytes is over the limit of {self._max_answer_bytes} bytes"
            return _error_response(request.request_id, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large", message)
        return ApiResponse(
            request_id=request.request_id, status=result.status, headers=result.headers, body=result.body
        )

    def _refuse_lost_job(self, request: ApiRequest) -> ApiResponse:
        """Answer a call that may not pass because the job is no longer its worker's, or no longer Airflow's."""
        if not self._jobs.is_superseded(request.job_id):
            message = "the job is no longer this worker's"
            return _error_response(request.request_id, HTTPStatus.CONFLICT, "not_yours", message)
        if not is_state(request):
            return _error_response(request.request_id, HTTPStatus.CONFLICT, "superseded", SUPERSEDED)
        # Airflow has this state, or it would not have queued the task again; only the answer was lost.
        self._muted.add(request.job_id)
        return ApiResponse(request_id=request.request_id, status=HTTPStatus.NO_CONTENT)

    def _is_too_early(self, worker: WorkerName, request: ApiRequest | StartRequest) -> bool:
        job = self._jobs.get_job(request.job_id)
        if job is None or isinstance(request, StartRequest) or is_run(request):
            return False
        return (job.state, job.worker, job.fence) == (CentralJobState.ASSIGNED, worker, request.fence)

    async def _find_refusal(self, worker: WorkerName, request: ApiRequest | StartRequest) -> str | None:
        """Return why the call may not pass; record the start when it is one."""
        starter = _starter(request)
        if starter is not None:
            return await self._ask_start(worker, request, starter)
        if self._forwarding.find_running(worker, request) is None:
            return f"job {request.job_id} is not running on worker {worker} with fence {request.fence}"
        return None

    async def _ask_start(self, worker: WorkerName, request: ApiRequest | StartRequest, starter: str) -> str | None:
        job = self._jobs.get_job(request.job_id)
        if isinstance(request, StartRequest) and job is not None and job.spec.type is WorkloadType.TASK:
            return "a task begins with its run call"
        # The job counts as running from here on, but Airflow knows only when the call has been answered.
        # Only what this call adds may it take away: a stale one must not expose the job of the rightful holder.
        keep = request.job_id in self._muted
        self._muted.add(request.job_id)
        try:
            refusal = await retry(
                lambda: self._dispatch.ask_start(worker, request.job_id, request.fence, starter),
                LedgerError,
                wait_s=self._limits.retry_s,
            )
            keep = keep or (refusal is None and isinstance(request, ApiRequest))
            return refusal
        finally:
            if not keep:
                self._muted.discard(request.job_id)

    async def _pass_on(self, worker: WorkerName, request: ApiRequest) -> ApiResult | None:
        """Call the Execution API until it answers; None when the job is taken away before."""
        ends = is_state(request)
        if ends:
            # Before the call, because Airflow changes the state while the call is under way.
            self._muted.add(request.job_id)
        settled = False
        try:
            if ends:
                await self._last_words.note(request)
            begun_here = request.job_id in self._begun
            result = await self._forwarding.forward(worker, request, begun_here=begun_here)
            if result is not None:
                settled = ends and result.status < HTTPStatus.BAD_REQUEST
                if ends and not settled:
                    self._last_words.take_back(request.job_id)
                if is_run(request):
                    self._record_start(request, result)
            return result
        finally:
            if not settled:
                self._muted.discard(request.job_id)

    def _record_start(self, request: ApiRequest, result: ApiResult) -> None:
        if result.status < HTTPStatus.BAD_REQUEST:
            self._begun.add(request.job_id)
        elif result.status in NOT_WANTED:
            self._dispatch.post(StartRefused(job_id=request.job_id, reason=reason_of(result.body)))

    async def renew_token(self, job: Job) -> bool:
        """Give a job a token made here, because its own has expired; False without a key."""
        return await self._forwarding.renew_token(job)


def reason_of(body: bytes) -> str:
    """Return Airflow's reason for a refusal, in one line."""
    try:
        detail = json.loads(body.decode())["detail"]
        return one_line(f"{detail['reason']}: {detail['message']}")
    except (ValueError, KeyError, TypeError, RecursionError):
        return "Airflow does not want the task to run any more"


def _starter(request: ApiRequest | StartRequest) -> str | None:
    """Return who asks to start user code, as ``host:pid``; None when the call is not a start."""
    if isinstance(request, StartRequest):
        return f"start:{request.request_id}"
    if not is_run(request):
        return None
    try:
        payload = json.loads(request.body.decode())
        hostname, pid = payload["hostname"], int(payload["pid"])
        # A worker's word like any other, which is stored.
        return f"{one_line(hostname)}:{pid}" if isinstance(hostname, str) and 0 < pid <= _MAX_PID else "unknown:0"
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "unknown:0"


def parse_starter(starter: str | None) -> tuple[str, int] | None:
    """Return host name and pid of a task's process; None for anything else."""
    hostname, _, pid = (starter or "").rpartition(":")
    return (hostname, int(pid)) if hostname and pid.isdecimal() and pid != "0" else None


def _error_response(request_id: str, status: HTTPStatus, reason: str, message: str) -> ApiResponse:
    """Return an error in the form of Airflow's own (``detail.reason``, ``detail.message``)."""
    return ApiResponse(
        request_id=request_id,
        status=status,
        headers={"content-type": "application/json"},
        body=json.dumps({"detail": {"reason": reason, "message": message}}).encode(),
    )
