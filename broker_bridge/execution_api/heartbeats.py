"""Heartbeats to Airflow for the tasks that run on the edge, whether or not their worker can be reached now."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Final

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiUnavailable, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.relay import Jobs, Relay
from edge_mqtt.broker_bridge.protocol.messages import WorkloadType

log = logging.getLogger(__name__)

#: Heartbeats under way at once, so that calls of tasks always find a connection.
CONCURRENT_HEARTBEATS: Final = 8
#: Airflow's answers that mean "this task should not be running" (ti_heartbeat in its execution_api routes).
NOT_WANTED: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE})
#: Seconds after such an answer before Airflow is asked once more. One alone may cross the task's own ``run`` or final
#: call, which the worker repeats after a restart of the bridge.
DOUBT_S: Final = 0.5


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
    ) -> None:
        self._api = api
        self._jobs = jobs
        self._relay = relay
        self._running = running
        self._not_wanted = not_wanted
        self._interval_s = interval_s
        self._slots = asyncio.Semaphore(CONCURRENT_HEARTBEATS)

    async def run(self) -> None:
        """Heartbeat until cancelled."""
        while True:
            await asyncio.sleep(self._interval_s)
            tasks = [job for job in self._running() if job.spec.type is WorkloadType.TASK]
            await asyncio.gather(*(self._keep_alive(job) for job in tasks))

    async def _keep_alive(self, job: Job) -> None:
        reason = await self._beat(job)
        if reason is None:
            return
        await asyncio.sleep(DOUBT_S)
        current = self._jobs.job(job.spec.job_id)
        if current is not None and await self._beat(current) is not None:
            self._not_wanted(current, reason)

    async def _beat(self, job: Job) -> str | None:
        """Send one heartbeat; return Airflow's reason when it does not want the task to run."""
        if job.starter is None or job.token is None or self._relay.is_silent(job.spec.job_id):
            return None
        hostname, _, pid = job.starter.rpartition(":")
        call = ApiCall(
            method="PUT",
            target=f"task-instances/{job.spec.workload['ti']['id']}/heartbeat",
            token=job.token,
            headers={"content-type": "application/json"},
            body=json.dumps({"hostname": hostname, "pid": int(pid)}).encode(),
        )
        async with self._slots:
            try:
                result = await self._api.call(call)
            except ApiUnavailable:
                # Airflow's own timeout is minutes; the next heartbeat will do, and calls of tasks report the outage.
                return None
        if result.refreshed_token is not None:
            await self._jobs.token_refreshed(job.spec.job_id, result.refreshed_token)
        if result.status not in NOT_WANTED or self._relay.is_silent(job.spec.job_id):
            return None
        return _reason(result.body)


def _reason(body: bytes) -> str:
    """Return Airflow's reason in one line."""
    try:
        detail = json.loads(body)["detail"]
        return f"{detail['reason']}: {detail['message']}"
    except (ValueError, KeyError, TypeError):
        return "Airflow does not want the task to run any more"
