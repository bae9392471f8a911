"""Makes a worker's call to Airflow until it is answered, and finds out what became of one whose answer was lost."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from edge_mqtt.broker_bridge.dispatch.core.events import CallForwarded, Event, TokenRefreshed
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.execution_api.client import (
    API_VERSION,
    ApiCall,
    ApiResult,
    ApiUnavailable,
    ExecutionApiClient,
)
from edge_mqtt.broker_bridge.execution_api.doubt import (
    UNKNOWN,
    ForwardedCall,
    describe_run,
    means_success,
    was_cleared,
    was_triggered,
)
from edge_mqtt.broker_bridge.execution_api.endpoints import is_clear, is_trigger, run_target
from edge_mqtt.broker_bridge.execution_api.interface import EventSink, JobReader
from edge_mqtt.broker_bridge.execution_api.retry import retry
from edge_mqtt.broker_bridge.execution_api.token_issuer import TokenIssuer
from edge_mqtt.broker_bridge.execution_api.wall_time import body_in_centre_time, result_in_worker_time
from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, StartRequest

log = logging.getLogger(__name__)

#: What a call is answered that Airflow has carried out without its answer having come.
_DONE: Final = ApiResult(status=HTTPStatus.NO_CONTENT, headers={}, body=b"")


@dataclass(frozen=True, kw_only=True, slots=True)
class RelayLimits:
    """How long the relay tries, and how much it passes on."""

    #: Seconds between attempts while the api-server or the ledger is away.
    retry_s: float = 1.0
    #: Attempts after which an error of Airflow's database is handed on, because it may be the call's own fault.
    database_attempts: int = 60
    #: Bytes of an answer at most.
    answer_bytes: int = MAX_MESSAGE_BYTES


@dataclass(kw_only=True, slots=True)
class _Call:
    """A call under way."""

    request: ApiRequest
    #: It was sent to Airflow, perhaps by the bridge before this one, and no answer came.
    in_doubt: bool
    #: What the Dag run was that the call makes or clears, before it was forwarded.
    run_before: str = UNKNOWN
    failures: int = 0
    #: Its token was made for it a moment ago: should that one be refused, too, another would be as well.
    has_new_token: bool = False


class Forwarding:
    """Forwards calls of jobs.

    :meth:`forward` may be called for many requests at once and may be cancelled. Before a call that makes or clears a
    Dag run is sent, what that run was is in the ledger.
    """

    def __init__(
        self,
        api: ExecutionApiClient,
        jobs: JobReader,
        dispatch: EventSink,
        issuer: TokenIssuer,
        limits: RelayLimits,
    ) -> None:
        self._api = api
        self._jobs = jobs
        self._dispatch = dispatch
        self._issuer = issuer
        self._limits = limits

    def find_running(self, worker: WorkerName, request: ApiRequest | StartRequest) -> Job | None:
        """Return the request's job when it runs there; None when the call may not pass."""
        job = self._jobs.get_job(request.job_id)
        if job is None or job.state is not CentralJobState.RUNNING:
            return None
        return job if (job.worker, job.fence) == (worker, request.fence) else None

    async def forward(self, worker: WorkerName, request: ApiRequest, *, begun_here: bool) -> ApiResult | None:
        """Call the Execution API until it answers; None when the job is taken away before.

        :param begun_here: the job began under this bridge: what this bridge has not forwarded of it, no other has.
        """
        call = self._begin(request, begun_here=begun_here)
        while (job := self.find_running(worker, request)) is not None and not self._jobs.is_superseded(job.id):
            try:
                result = await self._attempt(call, job)
            except ApiUnavailable as error:
                if not call.failures:
                    log.warning(
                        "calls wait for the api-server: %s",
                        error,
                        extra={"action": "api_unavailable", "job_id": request.job_id},
                    )
                call.failures += 1
                await asyncio.sleep(self._limits.retry_s)
            else:
                if result is not None:
                    return result_in_worker_time(request, result)
        return None

    def _begin(self, request: ApiRequest, *, begun_here: bool) -> _Call:
        if not _changes_run(request):
            return _Call(request=request, in_doubt=request.repeated and not begun_here)
        job = self._jobs.get_job(request.job_id)
        noted = None if job is None else ForwardedCall.parse(job.forwarded)
        if noted is None or noted.request_id != request.request_id:
            # However often the worker has sent it: no bridge has forwarded it.
            return _Call(request=request, in_doubt=False)
        return _Call(request=request, in_doubt=True, run_before=noted.before)

    async def _attempt(self, call: _Call, job: Job) -> ApiResult | None:
        """Make the call once; None when it is to be made again with a new token."""
        request = call.request
        if _changes_run(request) and not call.in_doubt:
            await self._note_run(call, job)
        elif is_clear(request) and was_cleared(call.run_before, await self._look(request, job)):
            return _done(request)
        try:
            patient = call.failures < self._limits.database_attempts
            result = await self._api.call(_call_of(request, self._newest_token(job)), patient=patient)
        except ApiUnavailable as error:
            call.in_doubt = call.in_doubt or error.in_doubt
            # A token that was made for the call may expire in its turn before the api-server is back.
            call.has_new_token = False
            raise
        await self._keep_token(job, result)
        if not call.has_new_token and is_expired(result):
            call.has_new_token = True
            if await self.renew_token(job):
                return None
        if call.in_doubt and await self._was_carried_out(call, job, result):
            return _done(request)
        return result

    async def _note_run(self, call: _Call, job: Job) -> None:
        """Have it in the ledger what the run is that the call makes or clears, before the call is sent."""
        call.run_before = describe_run(await self._look(call.request, job))
        note = ForwardedCall(request_id=call.request.request_id, before=call.run_before).to_text()
        if note != job.forwarded:
            await self._commit(CallForwarded(job_id=job.id, call=note))

    async def _look(self, request: ApiRequest, job: Job) -> ApiResult:
        """Ask Airflow for the Dag run that a call makes or clears.

        A token that has expired is replaced first: what its refusal leaves unknown would stay so.
        """
        result = await self._ask_for_run(request, job)
        if is_expired(result) and await self.renew_token(job):
            result = await self._ask_for_run(request, job)
        await self._keep_token(job, result)
        return result

    async def _ask_for_run(self, request: ApiRequest, job: Job) -> ApiResult:
        headers = {"airflow-api-version": API_VERSION}
        look = ApiCall(method="GET", target=run_target(request), token=self._newest_token(job), headers=headers)
        return await self._api.call(look)

    async def _was_carried_out(self, call: _Call, job: Job, result: ApiResult) -> bool:
        if is_trigger(call.request) and result.status == HTTPStatus.CONFLICT:
            return was_triggered(call.run_before, call.request.body, await self._look(call.request, job))
        return means_success(call.request, result)

    # ------------------------------------------------------------ tokens

    async def renew_token(self, job: Job) -> bool:
        """Give a job a token made here, because its own expired while the bridge was away; False without a key."""
        token = self._issuer.issue_token(task_instance_id(job))
        if token is None:
            return False
        await self._commit(TokenRefreshed(job_id=job.id, token=token))
        return True

    def _newest_token(self, job: Job) -> str:
        """Return a job's token as it is now: a call made meanwhile may have brought another."""
        return (self._jobs.get_job(job.id) or job).token or ""

    async def _keep_token(self, job: Job, result: ApiResult) -> None:
        if result.refreshed_token is not None:
            # Without it the task would be locked out after a restart of the bridge.
            await self._commit(TokenRefreshed(job_id=job.id, token=result.refreshed_token))

    async def _commit(self, event: Event) -> None:
        """Wait until it is stored."""
        await retry(lambda: self._dispatch.commit(event), LedgerError, wait_s=self._limits.retry_s)


def _changes_run(request: ApiRequest) -> bool:
    return is_trigger(request) or is_clear(request)


def _done(request: ApiRequest) -> ApiResult:
    log.info(
        "a call whose answer was lost was carried out: it counts as done",
        extra={"action": "call_was_done", "job_id": request.job_id, "request_id": request.request_id},
    )
    return _DONE


def _call_of(request: ApiRequest, token: str) -> ApiCall:
    return ApiCall(
        method=request.method,
        target=request.target,
        token=token,
        headers=request.headers,
        body=body_in_centre_time(request),
        correlation_id=request.request_id,
    )


def is_expired(result: ApiResult) -> bool:
    """Tell whether Airflow refused the token itself (``JWTBearer`` in its execution_api/security.py)."""
    return result.status == HTTPStatus.FORBIDDEN and b"Invalid auth token" in result.body


def task_instance_id(job: Job) -> str:
    """Return Airflow's id of a job's task instance; the job's own when its workload does not say."""
    ti = job.spec.workload.get("ti")
    return str(ti["id"]) if isinstance(ti, dict) and "id" in ti else str(job.spec.job_id)
