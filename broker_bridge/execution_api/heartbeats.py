"""Heartbeats to Airflow for the tasks that run on the edge, whether or not their worker can be reached now."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger import LedgerError
from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiResult, ApiUnavailable, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.relay import Jobs, Relay, is_expired, parse_starter
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import WorkloadType

log = logging.getLogger(__name__)

#: Heartbeats under way at once, so that calls of tasks always find a connection.
CONCURRENT_HEARTBEATS: Final = 8
#: Airflow's answers that mean "this task should not be running" (ti_heartbeat in its execution_api routes).
NOT_WANTED: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE})
#: Seconds after such an answer before Airflow is asked once more: it may cross the task's own final call.
DOUBT_S: Final = 0.5
#: Seconds for which such answers are not believed about a job that was running when this bridge started: its ``run``
#: call may not have reached Airflow yet, and its worker, which repeats the call, may take this long to reconnect.
UNCONFIRMED_S: Final = 90.0


class Heartbeats:
    """Sends one heartbeat for every running task every ``interval_s`` seconds."""

    def __init__(
        self,
        api: ExecutionApiClient,
        jobs: Jobs,
        relay: Relay,
        *,
        running: Callable[[], Iterable[Job]],
        not_wanted: Callable[[Job, str], None],
        interval_s: float,
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._jobs = jobs
        self._relay = relay
        self._running = running
        self._not_wanted = not_wanted
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
            tasks = [job for job in self._running() if job.spec.type is WorkloadType.TASK]
            self._doubted = {job.id: self._doubted[job.id] for job in tasks if job.id in self._doubted}
            self._confirmed &= {job.id for job in tasks}
            await asyncio.gather(*(self._keep_alive(job) for job in tasks))
            await asyncio.sleep(self._interval_s)

    async def _keep_alive(self, job: Job) -> None:
        reason = await self._beat(job)
        if reason is None:
            self._doubted.pop(job.id, None)
            return
        if job.id not in self._confirmed and not self._relay.has_begun(job.id):
            since = self._doubted.setdefault(job.id, self._clock())
            if self._clock() - since < UNCONFIRMED_S:
                return
        await asyncio.sleep(DOUBT_S)
        current = self._jobs.job(job.id)
        if current is not None and await self._beat(current) is not None:
            self._not_wanted(current, reason)

    async def _beat(self, job: Job) -> str | None:
        """Send one heartbeat; return Airflow's reason when it does not want the task to run."""
        process = parse_starter(job.starter)
        if process is None or job.token is None or self._relay.is_silent(job.id):
            return None
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
            return _reason(result.body)
        if result.status < HTTPStatus.BAD_REQUEST:
            self._confirmed.add(job.id)
        elif result.status not in NOT_WANTED:
            log.warning(
                "Airflow refuses a heartbeat with %s: %s",
                result.status,
                _reason(result.body),
                extra={"action": "heartbeat_refused", "job_id": job.id},
            )
        return None


def _reason(body: bytes) -> str:
    """Return Airflow's reason in one line."""
    try:
        detail = json.loads(body)["detail"]
        return f"{detail['reason']}: {detail['message']}"
    except (ValueError, KeyError, TypeError):
        return "Airflow does not want the task to run any more"
