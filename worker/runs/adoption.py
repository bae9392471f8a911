"""Finds out whether a job that is stored as launched has a supervisor: after a restart, and when the launcher died.

A supervisor creates its run's process file before anything else, and only one process can create it. Whoever is to
take the job back creates it first (:meth:`RunFiles.claim_for_no_process`): then no supervisor can begin any more.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, Protocol

from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.ipc.run_files import sweep_files
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.runs.background_tasks import BackgroundTasks
from edge_mqtt.worker.runs.run_events import RunEvents
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.system.cgroup import remove_empty_cgroups
from edge_mqtt.worker.system.process import ProcessIdentity
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)

NEVER_STARTED: Final = "the worker was restarted before the job had started"
NOT_OURS: Final = "no longer this worker's"


class Watching(Protocol):
    """Who watches supervisors to their end."""

    def watch_supervisor(self, job: LocalJob, identity: ProcessIdentity, *, is_ours: bool) -> asyncio.Task[None]:
        """Wait for a supervisor's end, and tell of it; return the task that does."""

    def stop_job(self, job: LocalJob, reason: str) -> None:
        """Stop a job."""


class Adoption:
    """Takes over supervisors that another worker's launcher has forked, and gives back the jobs that have none."""

    def __init__(
        self,
        plan: RunPlan,
        jobs: JobStore,
        *,
        supervisors: Watching,
        events: RunEvents,
        tasks: BackgroundTasks,
        timing: WorkerTiming,
    ) -> None:
        self._plan = plan
        self._jobs = jobs
        self._supervisors = supervisors
        self._events = events
        self._tasks = tasks
        self._timing = timing

    async def adopt_all(self) -> None:
        """Take over the supervisors of the worker that ran before this one."""
        self.sweep_later()
        ends = [self.adopt_or_give_back(job, NEVER_STARTED) for job in self._jobs.list_supervised()]
        ended = [end for end in ends if end is not None]
        # So that our first word to the bridge does not call running what has ended: it would have it dropped, and
        # with it the end of its log, when it has given the job up meanwhile.
        if ended:
            await asyncio.wait(ended, timeout=self._timing.store_retry_s)

    def adopt_or_give_back(self, job: LocalJob, reason: str) -> asyncio.Task[None] | None:
        """Take over a job's supervisor, or make sure that there will be none and give the job back.

        :param reason: why it is given back.
        :return: what ends when the job's end is stored; None while its supervisor is alive.
        """
        if self._plan.files(job).claim_for_no_process():
            # Aside: it may have to wait for the disk, for which running jobs and what comes over the link must not.
            return self._tasks.start(self._give_back(job, reason), f"worker.give_back[{job.job_id}]")
        return self._adopt(job)

    def _adopt(self, job: LocalJob) -> asyncio.Task[None] | None:
        self._events.follow_launch(job)
        text = self._plan.files(job).process.read_text(encoding="ascii", errors="replace")
        identity = ProcessIdentity.parse(text) or ProcessIdentity(pid=0, start=0, boot="")
        is_alive = identity.is_alive()
        if is_alive:
            log.info(
                "%s goes on (pid %d)",
                job.label,
                identity.pid,
                extra={"action": "job_adopted", "job_id": job.job_id, "pid": identity.pid},
            )
        watching = self._supervisors.watch_supervisor(job, identity, is_ours=False)
        if job.state is LocalJobState.DROPPED:
            self._supervisors.stop_job(job, NOT_OURS)
        return None if is_alive else watching

    async def _give_back(self, job: LocalJob, reason: str) -> None:
        await self._events.give_back_job(job, reason)
        self.sweep_later()

    def sweep_later(self) -> None:
        """Delete, when no supervisor can come any more, the files of runs whose jobs this worker no longer has.

        Their supervisor came when its job was given back already and was refused, or the worker before us died before
        it could delete them.
        """
        self._tasks.start(self._sweep_files(), "worker.sweep")

    async def _sweep_files(self) -> None:
        await asyncio.sleep(self._timing.late_supervisor_s)
        try:
            count = sweep_files(self._plan.runs_dir, (self._plan.files(job) for job in self._jobs))
            remove_empty_cgroups()
        except OSError as error:
            log.warning("old runs' files stay: %s", error, extra={"action": "sweep_failed"})
        else:
            if count:
                log.info("deleted %d files of old runs", count, extra={"action": "runs_swept"})
