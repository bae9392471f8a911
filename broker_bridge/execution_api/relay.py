"""Relays the calls of supervisors on the edge to the Execution API.

A call passes only for the worker and the fence that hold the job. The ``run`` call is the start of user code: it is
recorded in the ledger before it is passed on. Calls wait while the api-server is away; a repeated call (the worker
sends it again after a reconnect) is answered from memory or joins the one under way.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections import OrderedDict
from http import HTTPStatus
from typing import Final, Protocol

from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.execution_api.client import (
    ApiCall,
    ApiResult,
    ApiUnavailable,
    ExecutionApiClient,
    InvalidTarget,
)
from edge_mqtt.broker_bridge.execution_api.tokens import TokenMint
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, StartRequest

log = logging.getLogger(__name__)

#: Answers kept for workers that ask again, and the bytes of them at most. A worker repeats a call only when its
#: connection dropped before the answer came, so seconds of traffic are enough.
ANSWERS_KEPT: Final = 4096
ANSWER_BYTES_KEPT: Final = 32 * 1024 * 1024
#: Seconds between attempts while the api-server is away.
UNAVAILABLE_RETRY_S: Final = 1.0
#: Calls under way at once; more wait their turn.
CONCURRENT_CALLS: Final = 64

_RUN_CALL: Final = re.compile(r"/?task-instances/(?P<id>[^/?]+)/run")
_STATE_CALL: Final = re.compile(r"/?task-instances/(?P<id>[^/?]+)/state")


class Jobs(Protocol):
    """What the relay needs of the dispatcher."""

    def job(self, job_id: JobId) -> Job | None:
        """Return a live job."""

    async def ask_start(self, worker: WorkerName, job_id: JobId, fence: Fence, starter: str) -> str | None:
        """Record the start; return None when granted, else why not. Raises LedgerUnavailable."""

    async def token_refreshed(self, job_id: JobId, token: str) -> None:
        """Store the job's newer token."""


class LedgerUnavailable(Exception):
    """The ledger could not store what has to be stored before the call may go on."""


class Relay:
    """Answers :class:`ApiRequest` and :class:`StartRequest`."""

    def __init__(self, api: ExecutionApiClient, jobs: Jobs, mint: TokenMint) -> None:
        self._api = api
        self._jobs = jobs
        self._mint = mint
        self._under_way: set[tuple[WorkerName, str]] = set()
        self._answers: OrderedDict[tuple[WorkerName, str], ApiResponse] = OrderedDict()
        self._answer_bytes = 0
        self._slots = asyncio.Semaphore(CONCURRENT_CALLS)
        #: Jobs whose ``run`` call is under way, or whose task has told Airflow its final state: Airflow answers
        #: heartbeats for them as if somebody else ran the task.
        self._silent: set[JobId] = set()

    def is_silent(self, job_id: JobId) -> bool:
        """Tell whether Airflow must not get heartbeats for the job now."""
        return job_id in self._silent

    def forget(self, job_id: JobId) -> None:
        """Drop what is kept for a job that is finished."""
        self._silent.discard(job_id)

    async def answer(self, worker: WorkerName, request: ApiRequest | StartRequest) -> ApiResponse | None:
        """Return the answer; None when the same request is under way already."""
        key = (worker, request.request_id)
        kept = self._answers.get(key)
        if kept is not None:
            return kept
        if key in self._under_way:
            return None
        self._under_way.add(key)
        try:
            async with self._slots:
                response = await self._respond(worker, request)
        finally:
            self._under_way.discard(key)
        self._keep(key, response)
        return response

    def _keep(self, key: tuple[WorkerName, str], response: ApiResponse) -> None:
        self._answers[key] = response
        self._answer_bytes += len(response.body)
        while len(self._answers) > ANSWERS_KEPT or self._answer_bytes > ANSWER_BYTES_KEPT:
            _, oldest = self._answers.popitem(last=False)
            self._answer_bytes -= len(oldest.body)

    async def _respond(self, worker: WorkerName, request: ApiRequest | StartRequest) -> ApiResponse:
        try:
            refusal = await self._refusal(worker, request)
            if refusal is not None:
                log.warning(
                    "call refused: %s",
                    refusal,
                    extra={"action": "call_refused", "worker": worker, "job_id": request.job_id},
                )
                return _problem(request.request_id, HTTPStatus.CONFLICT, "not_yours", refusal)
            if isinstance(request, StartRequest):
                return ApiResponse(request_id=request.request_id, status=HTTPStatus.OK)
            result = await self._pass_on(worker, request)
        except LedgerUnavailable as error:
            return _problem(request.request_id, HTTPStatus.SERVICE_UNAVAILABLE, "ledger_unavailable", str(error))
        except InvalidTarget as error:
            return _problem(request.request_id, HTTPStatus.BAD_REQUEST, "invalid_target", str(error))
        if result is None:
            message = "the job is no longer this worker's"
            return _problem(request.request_id, HTTPStatus.CONFLICT, "not_yours", message)
        return ApiResponse(
            request_id=request.request_id, status=result.status, headers=result.headers, body=result.body
        )

    async def _refusal(self, worker: WorkerName, request: ApiRequest | StartRequest) -> str | None:
        """Return why the call may not pass; record the start when it is one."""
        starter = _starter(request)
        if starter is not None:
            # The job counts as running from here on, but Airflow knows only when the call has been answered.
            self._silent.add(request.job_id)
            refusal = await self._jobs.ask_start(worker, request.job_id, request.fence, starter)
            if refusal is not None or isinstance(request, StartRequest):
                self._silent.discard(request.job_id)
            return refusal
        if self._held(worker, request) is None:
            return f"job {request.job_id} is not running on worker {worker} with fence {request.fence}"
        return None

    def _held(self, worker: WorkerName, request: ApiRequest | StartRequest) -> Job | None:
        job = self._jobs.job(request.job_id)
        if job is None or job.worker != worker or job.fence != request.fence or job.state is not JobState.RUNNING:
            return None
        return job

    async def _pass_on(self, worker: WorkerName, request: ApiRequest) -> ApiResult | None:
        """Call the Execution API until it answers; None when the job was taken from the worker meanwhile."""
        begins = _is(_RUN_CALL, request)
        ends = _is(_STATE_CALL, request)
        if ends:
            # Before the call, because Airflow changes the state while the call is under way.
            self._silent.add(request.job_id)
        minted: str | None = None
        waiting = False
        while (job := self._held(worker, request)) is not None:
            call = ApiCall(
                method=request.method,
                target=request.target,
                token=minted or job.token or "",
                headers=request.headers,
                body=request.body,
            )
            try:
                result = await self._api.call(call)
            except ApiUnavailable as error:
                if not waiting:
                    log.warning(
                        "calls wait for the api-server: %s",
                        error,
                        extra={"action": "api_unavailable", "job_id": request.job_id},
                    )
                waiting = True
                await asyncio.sleep(UNAVAILABLE_RETRY_S)
                continue
            if result.refreshed_token is not None:
                await self._jobs.token_refreshed(request.job_id, result.refreshed_token)
            if result.status == HTTPStatus.FORBIDDEN and minted is None and b"Invalid auth token" in result.body:
                # The token expired while the bridge was away: Airflow would have renewed it on the heartbeats.
                minted = self._mint.token(_task_instance_id(job))
                if minted is not None:
                    await self._jobs.token_refreshed(request.job_id, minted)
                    continue
            if begins or (ends and result.status >= HTTPStatus.BAD_REQUEST):
                self._silent.discard(request.job_id)
            return result
        return None


def _task_instance_id(job: Job) -> str:
    ti = job.spec.workload.get("ti")
    return str(ti["id"]) if isinstance(ti, dict) and "id" in ti else str(job.spec.job_id)


def _is(call: re.Pattern[str], request: ApiRequest) -> bool:
    return request.method == "PATCH" and call.fullmatch(request.target.partition("?")[0]) is not None


def _starter(request: ApiRequest | StartRequest) -> str | None:
    """Return who asks to start user code, as ``host:pid``; None when the call is not a start."""
    if isinstance(request, StartRequest):
        return f"start:{request.request_id}"
    if not _is(_RUN_CALL, request):
        return None
    try:
        payload = json.loads(request.body)
        return f"{payload['hostname']}:{int(payload['pid'])}"
    except (ValueError, KeyError, TypeError):
        return "unknown:0"


def _problem(request_id: str, status: HTTPStatus, reason: str, message: str) -> ApiResponse:
    """Return an error in the form of Airflow's own (``detail.reason``, ``detail.message``)."""
    return ApiResponse(
        request_id=request_id,
        status=status,
        headers={"content-type": "application/json"},
        body=json.dumps({"detail": {"reason": reason, "message": message}}).encode(),
    )
