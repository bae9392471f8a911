"""Ends tasks whose supervisor hangs: it must not be reported as alive for ever.

Airflow's supervisor heartbeats for as long as its task's process is there; those end on this machine, so it is we who
see them stay away. A callback's and a connection test's supervisor makes no heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import WorkloadType
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.core.watchdog import LOOKS, Watchdog
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.logs.log_file import append_line
from edge_mqtt.worker.runs.supervisors import Supervisors

log = logging.getLogger(__name__)

HUNG: Final = "the task's supervisor has hung: it was not heard of for {:.0f} s"


class SupervisorWatchdog:
    """Looks at who has made a call.

    :param hung_after_s: seconds without a call after which a supervisor counts as hung.
    """

    def __init__(self, jobs: JobStore, supervisors: Supervisors, *, hung_after_s: float) -> None:
        self._jobs = jobs
        self._supervisors = supervisors
        self._hung_after_s = hung_after_s
        self._watchdog = Watchdog()

    def record_call(self, job_id: JobId) -> None:
        """Take note that a job's supervisor has made a call, or has been answered."""
        self._watchdog.record_call(job_id)

    async def run(self, jobs_with_calls: Callable[[], Collection[JobId]]) -> None:
        """Look for ever. Sleeps while nothing runs.

        :param jobs_with_calls: returns the jobs whose supervisor waits for an answer.
        """
        while True:
            await self._jobs.wait_until(lambda jobs: bool(jobs.list_supervised()))
            await asyncio.sleep(self._hung_after_s / LOOKS)
            watched = {job.job_id: job for job in self._jobs.list_supervised() if self._is_watched(job)}
            for job_id in self._watchdog.find_hung(watched, waiting=jobs_with_calls()):
                # Without its task's process it may be busy for long, uploading a log, and makes no heartbeats.
                has_task = await asyncio.to_thread(self._supervisors.has_task_process, job_id)
                if has_task and self._is_watched(watched[job_id]):
                    self._end_job(watched[job_id])

    def _is_watched(self, job: LocalJob) -> bool:
        is_task = job.spec.type is WorkloadType.TASK and job.state is LocalJobState.LAUNCHED
        return is_task and self._supervisors.is_running(job.job_id)

    def _end_job(self, job: LocalJob) -> None:
        reason = HUNG.format(self._hung_after_s)
        log.warning("%s: %s", job.label, reason, extra={"action": "supervisor_hung", "job_id": job.job_id})
        append_line(self._supervisors.plan.log_file(job), f"Killed by the edge worker: {reason}")
        self._supervisors.stop_job(job, reason, grace_s=0.0)
