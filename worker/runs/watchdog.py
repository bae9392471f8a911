"""Ends tasks whose supervisor hangs: it must not be reported as alive for ever.

Airflow's supervisor heartbeats for as long as its task's process is there; those end on this machine, so it is we who
see them stay away. A callback's and a connection test's supervisor makes no heartbeats.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from edge_mqtt.broker_bridge.protocol.messages import WorkloadType
from edge_mqtt.worker.api.server import ExecutionApiServer
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.core.watchdog import LOOKS, Watchdog
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.logs.log_file import note
from edge_mqtt.worker.runs.supervisors import Supervisors, describe

log = logging.getLogger(__name__)

HUNG: Final = "the task's supervisor has hung: it was not heard of for {:.0f} s"


class SupervisorWatch:
    """Looks at who has spoken.

    :param hung_after_s: seconds of silence after which a supervisor counts as hung.
    """

    def __init__(self, held: JobStore, runs: Supervisors, *, hung_after_s: float) -> None:
        self._held = held
        self._runs = runs
        self._hung_after_s = hung_after_s
        self._silence = Watchdog()
        #: Told when a supervisor says something.
        self.heard = self._silence.heard

    async def run(self, api: ExecutionApiServer) -> None:
        """Look for ever. Sleeps while nothing runs."""
        while True:
            await self._held.until(lambda held: bool(held.with_process()))
            await asyncio.sleep(self._hung_after_s / LOOKS)
            watched = {job.job_id: job for job in self._held.with_process() if self._is_watched(job)}
            for job_id in self._silence.look(watched, waiting=api.waiting()):
                # Without its task's process it may be busy for long, uploading a log, and makes no heartbeats.
                if await asyncio.to_thread(self._runs.has_child, job_id) and self._is_watched(watched[job_id]):
                    self._end(watched[job_id])

    def _is_watched(self, job: LocalJob) -> bool:
        is_task = job.spec.type is WorkloadType.TASK and job.state is LocalJobState.LAUNCHED
        return is_task and self._runs.goes_on(job.job_id)

    def _end(self, job: LocalJob) -> None:
        reason = HUNG.format(self._hung_after_s)
        log.warning("%s: %s", describe(job), reason, extra={"action": "supervisor_hung", "job_id": job.job_id})
        note(self._runs.plan.log_file(job), f"Killed by the edge worker: {reason}")
        self._runs.stop(job, reason, grace_s=0.0)
