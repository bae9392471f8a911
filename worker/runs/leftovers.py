"""What a run has left behind when its supervisor is gone: killed, and not believed to be killed before it is gone."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.logs.log_file import append_line
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.runs.stopping import RunningSupervisor
from edge_mqtt.worker.system.killing import Killed, kill_orphans
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)

LEFT: Final = "these processes cannot be killed, and the job keeps its slot until they are gone: {}"


class Leftovers:
    """Those of one worker's runs."""

    def __init__(self, plan: RunPlan, timing: WorkerTiming) -> None:
        self._plan = plan
        self._timing = timing

    async def clear(self, job: LocalJob, supervisor: RunningSupervisor) -> None:
        """Return when nothing is left of a run whose supervisor has ended."""
        count = 0
        while True:
            killed = await asyncio.to_thread(kill_orphans, supervisor.identity, supervisor.group)
            count += killed.count
            if not killed.left:
                break
            self.tell(job, supervisor, killed)
            await asyncio.sleep(self._timing.kill_repeat_s)
        if count:
            log.warning(
                "%s: killed %d processes that its supervisor left",
                job.label,
                count,
                extra={"action": "orphans_killed", "job_id": job.job_id},
            )

    def tell(self, job: LocalJob, supervisor: RunningSupervisor, killed: Killed) -> None:
        """Say, once, that something cannot be killed."""
        if killed.left == supervisor.told_left:
            return
        supervisor.told_left = killed.left
        text = LEFT.format(killed)
        log.error("%s: %s", job.label, text, extra={"action": "not_killed", "job_id": job.job_id})
        append_line(self._plan.log_file(job), f"The edge worker cannot end this task: {text}")
