"""Assignments, cancellations and what the bridge wants dropped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from edge_mqtt.broker_bridge.protocol.messages import (
    Assign,
    AssignmentAccepted,
    AssignmentRejected,
    Cancel,
    JobRef,
)
from edge_mqtt.worker.bridge.results import Results
from edge_mqtt.worker.core.job import (
    AssignmentDecision,
    LocalJob,
    LocalJobState,
    Verdict,
    decide_assignment,
)
from edge_mqtt.worker.core.slots import launchable
from edge_mqtt.worker.errors import LaunchRefused, SpoolError
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.logs.log_file import append_line
from edge_mqtt.worker.logs.shipper import LogShipper
from edge_mqtt.worker.runs.adoption import NOT_OURS
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)


class Assignments:
    """Accepts jobs and lets them go.

    :param draining: tells whether no new jobs are accepted.
    """

    def __init__(
        self,
        jobs: JobStore,
        link: Link,
        supervisors: Supervisors,
        results: Results,
        logs: LogShipper,
        *,
        queues: Collection[str],
        draining: Callable[[], bool],
        timing: WorkerTiming | None = None,
    ) -> None:
        self._jobs = jobs
        self._link = link
        self._supervisors = supervisors
        self._results = results
        self._logs = logs
        self._queues = queues
        self._draining = draining
        self._timing = timing or WorkerTiming()

    async def answer_assignment(self, assign: Assign) -> None:
        """Store, accept and launch a job; or say why not."""
        job_id, fence = assign.job.job_id, assign.fence
        before = self._jobs.get(job_id)
        decision = decide_assignment(assign, before, queues=self._queues, draining=self._draining())
        if decision.verdict is Verdict.IGNORE:
            return
        if decision.verdict is Verdict.REJECT:
            self._reject_assignment(assign, decision)
            return
        if decision.verdict is Verdict.CONFIRM:
            self._link.send_ack(AssignmentAccepted(job_id=job_id, fence=fence))
            return
        await self._accept_assignment(assign, before)

    async def _accept_assignment(self, assign: Assign, before: LocalJob | None) -> None:
        accepted: LocalJob | None = None

        def accept(current: LocalJob | None) -> LocalJob | None:
            nonlocal accepted
            if current is not before:
                return current  # Launched, or gone, a moment ago. The bridge will hear and assign anew.
            accepted = self._launched_or_waiting(assign)
            return accepted

        try:
            await self._jobs.change_job(assign.job.job_id, accept)
        except LaunchRefused as error:
            decision = AssignmentDecision(verdict=Verdict.REJECT, reason=str(error), permanent=True)
            self._reject_assignment(assign, decision)
            return
        except SpoolError as error:
            if accepted is not None:
                self._supervisors.abandon_launch(accepted)
            decision = AssignmentDecision(verdict=Verdict.REJECT, reason=str(error), takes_none=True)
            self._reject_assignment(assign, decision)
            return
        if accepted is None:
            return
        if accepted.state is LocalJobState.LAUNCHED:
            # It asks in a moment whether it may start, which says that we have it; should that take long, the bridge
            # assigns it once more, and that is confirmed.
            await self._supervisors.finish_launch(accepted)
        else:
            self._link.send_ack(AssignmentAccepted(job_id=accepted.job_id, fence=accepted.fence))

    def _launched_or_waiting(self, assign: Assign) -> LocalJob:
        """Return the job, launched when there is room: one commit then says both that we have it and that it runs."""
        job = LocalJob.from_assignment(assign)
        others = [other for other in self._jobs if other.job_id != job.job_id]
        if job in launchable([*others, job], self._supervisors.plan.concurrency):
            return self._supervisors.begin_launch(job)
        return job

    def _reject_assignment(self, assign: Assign, decision: AssignmentDecision) -> None:
        log.warning(
            "job refused: %s",
            decision.reason,
            extra={"action": "job_rejected", "job_id": assign.job.job_id, "queue": assign.job.queue},
        )
        self._link.send_ack(
            AssignmentRejected(
                job_id=assign.job.job_id,
                fence=assign.fence,
                reason=decision.reason,
                permanent=decision.permanent,
                takes_none=decision.takes_none,
            )
        )

    async def give_back_job(self, job: LocalJob, reason: str) -> None:
        """Give back a job that never started, however long it takes to store that: till then it counts as running."""
        while True:
            try:
                await self._return_job(job, reason)
            except SpoolError as error:
                log.error(  # noqa: TRY400 -- the line says it all
                    "a job waits to be given back: %s",
                    error,
                    extra={"action": "give_back_waits", "job_id": job.job_id},
                )
                await asyncio.sleep(self._timing.store_retry_s)
            else:
                return

    async def give_back_waiting(self, reason: str) -> None:
        """Give back every job that waits for its slots."""
        for job in self._jobs:
            if job.state is LocalJobState.ACCEPTED:
                try:
                    await self._return_job(job, reason)
                except SpoolError as error:
                    # It waits here, then, for the next start of this worker.
                    log.error("%s", error, extra={"action": "spool_failed", "job_id": job.job_id})  # noqa: TRY400

    async def _return_job(self, job: LocalJob, reason: str) -> None:
        """Let another worker run a job."""
        await self._results.forget_job(job)
        self._link.send_ack(AssignmentRejected(job_id=job.job_id, fence=job.fence, reason=reason))
        log.warning("%s given back: %s", job.label, reason, extra={"action": "job_given_back", "job_id": job.job_id})

    async def cancel_job(self, cancel: Cancel) -> None:
        """Stop a job; its result is still wanted."""
        job = self._jobs.get_current(cancel.job_id, cancel.fence)
        if job is None:
            return
        if job.state is LocalJobState.ACCEPTED:
            await self._results.report_unstarted(job, f"cancelled before it started: {cancel.reason}")
        elif job.state is LocalJobState.LAUNCHED:
            if self._supervisors.is_running(job.job_id):
                append_line(self._supervisors.plan.log_file(job), f"Stopped by the edge worker: {cancel.reason}")
            self._supervisors.stop_job(job, cancel.reason)

    async def drop_job(self, ref: JobRef) -> None:
        """Let go of a job that is not ours any more; nothing is reported."""
        job = self._jobs.get_current(ref.job_id, ref.fence)
        if job is None or job.state is LocalJobState.DROPPED:
            return
        if job.state is not LocalJobState.LAUNCHED:
            await self._results.forget_job(job)
            return

        def drop(current: LocalJob | None) -> LocalJob | None:
            return current.moved_to(LocalJobState.DROPPED) if current is job else current

        await self._jobs.change_job(job.job_id, drop)
        # Another worker's log goes into its place from now on.
        self._logs.forget_log(job.job_id)
        self._supervisors.stop_job(job, NOT_OURS)
