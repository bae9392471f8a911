"""Heartbeats to Airflow for the tasks that run on the edge, whether or not their worker can be reached now."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.events import TaskEnded, TokenRefreshed
from edge_mqtt.broker_bridge.dispatch.core.lifecycle import SUPERSEDED
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerError
from edge_mqtt.broker_bridge.execution_api.client import ApiCall, ApiResult, ApiUnavailable, ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.forwarding import is_expired, task_instance_id
from edge_mqtt.broker_bridge.execution_api.interface import EventSink, JobReader
from edge_mqtt.broker_bridge.execution_api.relay import NOT_WANTED, Relay, parse_starter, reason_of
from edge_mqtt.broker_bridge.protocol.errors import failure_line
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import WorkloadType

log = logging.getLogger(__name__)

#: Heartbeats under way at once, so that calls of tasks always find a connection.
CONCURRENT_HEARTBEATS: Final = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class HeartbeatTiming:
    """Durations in seconds."""

    #: Between two heartbeats of a task.
    interval_s: float
    #: After an answer that a task is not wanted, before Airflow is asked once more: it may cross the task's own final
    #: call.
    doubt_s: float = 0.5
    #: For how long such answers are not believed about a job that was running when this bridge started: its ``run``
    #: call may not have reached Airflow yet, and its worker, which repeats the call, may take this long to reconnect.
    unconfirmed_s: float = 90.0


class Heartbeats:
    """Sends one heartbeat for every running task at each interval.

    :param change_feed: told of every job that begins; nothing is looked at while nothing runs.
    :param clock: monotonic seconds.
    """

    def __init__(
        self,
        api: ExecutionApiClient,
        jobs: JobReader,
        dispatch: EventSink,
        relay: Relay,
        change_feed: ChangeFeed,
        *,
        timing: HeartbeatTiming,
        clock: Callable[[], float],
    ) -> None:
        self._api = api
        self._jobs = jobs
        self._dispatch = dispatch
        self._relay = relay
        self._change_feed = change_feed
        self._timing = timing
        self._clock = clock
        self._slots = asyncio.Semaphore(CONCURRENT_HEARTBEATS)
        #: Jobs that Airflow has accepted a heartbeat for since this bridge was started.
        self._confirmed: set[JobId] = set()
        #: Since when Airflow does not want a job that it has not confirmed.
        self._doubted: dict[JobId, float] = {}

    async def run(self) -> None:
        """Heartbeat until cancelled."""
        while True:
            seen = self._change_feed.version
            tasks = [job for job in self._jobs.running_jobs() if job.spec.type is WorkloadType.TASK]
            self._doubted = {job.id: self._doubted[job.id] for job in tasks if job.id in self._doubted}
            self._confirmed &= {job.id for job in tasks}
            await asyncio.gather(*(self._keep_alive(job) for job in tasks))
            if not tasks:
                await self._change_feed.wait(seen, None)
            await asyncio.sleep(self._timing.interval_s)

    async def _keep_alive(self, job: Job) -> None:
        try:
            await self._send_and_look(job)
        except Exception as error:  # noqa: BLE001  one task's heartbeat must not end those of all
            log.error(  # noqa: TRY400  one line
                "a heartbeat failed: %s",
                failure_line(error),
                extra={"action": "heartbeat_failed", "job_id": job.id},
            )

    async def _send_and_look(self, job: Job) -> None:
        reason = await self._send_heartbeat(job)
        if reason is None:
            self._doubted.pop(job.id, None)
            return
        if job.id not in self._confirmed and not self._relay.has_begun(job.id) and self._is_in_doubt(job):
            return
        await asyncio.sleep(self._timing.doubt_s)
        current = self._jobs.get_job(job.id)
        if current is not None and await self._send_heartbeat(current) is not None:
            self._dispatch.post(TaskEnded(job_id=job.id, reason=reason))

    def _is_in_doubt(self, job: Job) -> bool:
        """Tell whether a call of the job that a crash of the bridge left unanswered may still come.

        An absent worker brings it when it is back: a task that has told its end must not be killed for it.
        """
        if not self._jobs.is_reachable(job):
            self._doubted.pop(job.id, None)
            return True
        since = self._doubted.setdefault(job.id, self._clock())
        return self._clock() - since < self._timing.unconfirmed_s

    async def _send_heartbeat(self, job: Job) -> str | None:
        """Send one heartbeat; return Airflow's reason when it does not want the task to run."""
        process = parse_starter(job.starter)
        if process is None or job.token is None or self._relay.is_muted(job.id):
            return None
        if self._jobs.is_superseded(job.id):
            return SUPERSEDED
        hostname, pid = process
        call = ApiCall(
            method="PUT",
            target=f"task-instances/{quote(task_instance_id(job), safe='')}/heartbeat",
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
        return await self._read_answer(job, result)

    async def _read_answer(self, job: Job, result: ApiResult) -> str | None:
        try:
            if result.refreshed_token is not None:
                await self._dispatch.commit(TokenRefreshed(job_id=job.id, token=result.refreshed_token))
            if is_expired(result) and await self._relay.renew_token(job):
                return None
        except LedgerError:
            # The next heartbeat is answered with a newer token again.
            return None
        if result.status in NOT_WANTED and not self._relay.is_muted(job.id):
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
