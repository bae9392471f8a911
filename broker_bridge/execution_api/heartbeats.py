"""Heartbeats to Airflow for the tasks that run on the edge, whether or not their worker can be reached now."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final, Protocol

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.lifecycle import SUPERSEDED
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiResult, ApiUnavailable, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.relay import NOT_WANTED, Relay, is_expired, parse_starter, reason_of
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import WorkloadType

log = logging.getLogger(__name__)

#: Heartbeats under way at once, so that calls of tasks always find a connection.
CONCURRENT_HEARTBEATS: Final = 4
#: Seconds after such an answer before Airflow is asked once more: it may cross the task's own final call.
DOUBT_S: Final = 0.5
#: Seconds for which such answers are not believed about a job that was running when this bridge started: its ``run``
#: call may not have reached Airflow yet, and its worker, which repeats the call, may take this long to reconnect.
UNCONFIRMED_S: Final = 90.0


class Jobs(Protocol):
    """What heartbeats need of the dispatcher."""

    def job(self, job_id: JobId) -> Job | None:
        """Return a live job."""

    def running_jobs(self) -> Iterable[Job]:
        """Return the jobs that run."""

    def is_superseded(self, job_id: JobId) -> bool:
        """Tell whether Airflow has queued the job's task again since."""

    def is_reachable(self, job: Job) -> bool:
        """Tell whether the machine that has the job can be reached."""

    def task_ended(self, job_id: JobId, reason: str) -> None:
        """Stop a job that Airflow does not want to run any more."""

    async def token_refreshed(self, job_id: JobId, token: str) -> None:
        """Store the job's newer token. Raises LedgerError."""


class Heartbeats:
    """Sends one heartbeat for every running task every ``interval_s`` seconds.

    :param changes: told of every job that begins; nothing is looked at while nothing runs.
    """

    def __init__(
        self,
        api: ExecutionApiClient,
        jobs: Jobs,
        relay: Relay,
        changes: ChangeFeed,
        *,
        interval_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._jobs = jobs
        self._relay = relay
        self._changes = changes
        self._interval_s = interval_s
        self._clock = clock
        self._slots = asyncio.Semaphore(CONCURRENT_HEARTBEATS)
        #: Jobs that Airflow has accepted a heartbeat for since this bridge was started.
        self._confirmed: set[JobId] = set()
        #: Since when Airflow does not want a job that it has not confirmed.
        self._doubted: dict[JobId, float] = {}

    async def run(self) -> None:
        """Heartbeat until cancelled."""
        while True:
            seen = self._changes.version
            tasks = [job for job in self._jobs.running_jobs() if job.spec.type is WorkloadType.TASK]
            self._doubted = {job.id: self._doubted[job.id] for job in tasks if job.id in self._doubted}
            self._confirmed &= {job.id for job in tasks}
            await asyncio.gather(*(self._keep_alive(job) for job in tasks))
            if not tasks:
                await self._changes.wait(seen, None)
            await asyncio.sleep(self._interval_s)

    async def _keep_alive(self, job: Job) -> None:
        reason = await self._beat(job)
        if reason is None:
            self._doubted.pop(job.id, None)
            return
        if job.id not in self._confirmed and not self._relay.has_begun(job.id) and self._is_in_doubt(job):
            return
        await asyncio.sleep(DOUBT_S)
        current = self._jobs.job(job.id)
        if current is not None and await self._beat(current) is not None:
            self._jobs.task_ended(job.id, reason)

    def _is_in_doubt(self, job: Job) -> bool:
        """Tell whether a call of the job that a crash of the bridge left unanswered may still come.

        An absent worker brings it when it is back: a task that has told its end must not be killed for it.
        """
        if not self._jobs.is_reachable(job):
            self._doubted.pop(job.id, None)
            return True
        since = self._doubted.setdefault(job.id, self._clock())
        return self._clock() - since < UNCONFIRMED_S

    async def _beat(self, job: Job) -> str | None:
        """Send one heartbeat; return Airflow's reason when it does not want the task to run."""
        process = parse_starter(job.starter)
        if process is None or job.token is None or self._relay.is_silent(job.id):
            return None
        if self._jobs.is_superseded(job.id):
            return SUPERSEDED
        hostname, pid = process
        call = ApiCall(
            method="PUT",
            target=f"task-instances/{job.spec.workload['ti']['id']}/heartbeat",
            token=job.token,
            headers={"content-type": "application/json"},
            body=json.dumps({"hostname": hostname, "pid": pid}).encode(),
        )
        async with self._slots:
            try:
                result = await self._api.call(call)
            except ApiUnavailable:
                # Airflow's own timeout is minutes; the next heartbeat will do, and calls of tasks report the outage.
                return None
        return await self._understand(job, result)

    async def _understand(self, job: Job, result: ApiResult) -> str | None:
        try:
            if result.refreshed_token is not None:
                await self._jobs.token_refreshed(job.id, result.refreshed_token)
            if is_expired(result) and await self._relay.renew_token(job):
                return None
        except LedgerError:
            # The next heartbeat is answered with a newer token again.
            return None
        if result.status in NOT_WANTED and not self._relay.is_silent(job.id):
            return reason_of(result.body)
        if result.status < HTTPStatus.BAD_REQUEST:
            self._confirmed.add(job.id)
        elif result.status not in NOT_WANTED:
            log.warning(
                "Airflow refuses a heartbeat with %s: %s",
                result.status,
                reason_of(result.body),
                extra={"action": "heartbeat_refused", "job_id": job.id},
            )
        return None
