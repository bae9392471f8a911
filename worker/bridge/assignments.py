"""Assignments, cancellations and what the centre wants dropped."""

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
from edge_mqtt.worker.bridge.results import STORE_RETRY_S, Results
from edge_mqtt.worker.core.job import (
    AssignmentDecision,
    LocalJob,
    LocalJobState,
    Verdict,
    decide_assignment,
)
from edge_mqtt.worker.core.slots import launchable
from edge_mqtt.worker.errors import SpoolError
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.logs.log_file import note
from edge_mqtt.worker.runs.supervisors import Supervisors, describe

log = logging.getLogger(__name__)


class Assignments:
    """Takes jobs in and lets them go."""

    def __init__(
        self,
        held: JobStore,
        link: Link,
        runs: Supervisors,
        reporter: Results,
        *,
        queues: Collection[str],
        draining: Callable[[], bool],
    ) -> None:
        self._held = held
        self._link = link
        self._runs = runs
        self._reporter = reporter
        self._queues = queues
        self._draining = draining

    async def assigned(self, assign: Assign) -> None:
        """Store, accept and launch a job; or say why not."""
        job_id, fence = assign.job.job_id, assign.fence
        before = self._held.get(job_id)
        decision = decide_assignment(assign, before, queues=self._queues, draining=self._draining())
        if decision.verdict is Verdict.IGNORE:
            return
        if decision.verdict is Verdict.REJECT:
            self._reject(assign, decision)
            return
        if decision.verdict is Verdict.CONFIRM:
            self._link.send_ack(AssignmentAccepted(job_id=job_id, fence=fence))
            return
        await self._take(assign, before)

    async def _take(self, assign: Assign, before: LocalJob | None) -> None:
        taken: LocalJob | None = None

        def take(current: LocalJob | None) -> LocalJob | None:
            nonlocal taken
            if current is not before:
                return current  # Launched, or gone, a moment ago. The bridge will hear and assign anew.
            taken = self._ready_or_waiting(assign)
            return taken

        try:
            await self._held.change(assign.job.job_id, take)
        except SpoolError as error:
            if taken is not None:
                self._runs.abandon(taken)
            self._reject(assign, AssignmentDecision(verdict=Verdict.REJECT, reason=str(error)))
            return
        if taken is None:
            return
        if taken.state is LocalJobState.LAUNCHED:
            # It asks in a moment whether it may start, which says that we have it; should that take long, the centre
            # assigns it once more, and that is confirmed.
            await self._runs.start(taken)
        else:
            self._link.send_ack(AssignmentAccepted(job_id=taken.job_id, fence=taken.fence))

    def _ready_or_waiting(self, assign: Assign) -> LocalJob:
        """Return the job, launched when there is room: one commit then says both that we have it and that it runs."""
        job = LocalJob.taken(assign)
        others = [other for other in self._held if other.job_id != job.job_id]
        if job in launchable([*others, job], self._runs.plan.concurrency):
            return self._runs.forked(job)
        return job

    def _reject(self, assign: Assign, decision: AssignmentDecision) -> None:
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
            )
        )

    async def unstarted(self, job: LocalJob, reason: str) -> None:
        """Give back a job that never started, however long it takes to store that: till then it counts as running."""
        while True:
            try:
                await self._give_back(job, reason)
            except SpoolError as error:
                log.error(  # noqa: TRY400 -- the line says it all
                    "a job waits to be given back: %s",
                    error,
                    extra={"action": "give_back_waits", "job_id": job.job_id},
                )
                await asyncio.sleep(STORE_RETRY_S)
            else:
                return

    async def give_back_waiting(self, reason: str) -> None:
        """Give back every job that waits for its slots."""
        for job in self._held:
            if job.state is LocalJobState.ACCEPTED:
                try:
                    await self._give_back(job, reason)
                except SpoolError as error:
                    # It waits here, then, for the next start of this worker.
                    log.error("%s", error, extra={"action": "spool_failed", "job_id": job.job_id})  # noqa: TRY400

    async def _give_back(self, job: LocalJob, reason: str) -> None:
        """Let somebody else run a job."""
        await self._reporter.forget(job)
        self._link.send_ack(AssignmentRejected(job_id=job.job_id, fence=job.fence, reason=reason))
        log.warning(
            "%s given back: %s", describe(job), reason, extra={"action": "job_given_back", "job_id": job.job_id}
        )

    async def cancelled(self, cancel: Cancel) -> None:
        """Stop a job; its result is still wanted."""
        job = self._held.current(cancel.job_id, cancel.fence)
        if job is None:
            return
        if job.state is LocalJobState.ACCEPTED:
            await self._reporter.cancelled(job, cancel.reason)
        elif job.state is LocalJobState.LAUNCHED:
            if self._runs.goes_on(job.job_id):
                note(self._runs.plan.log_file(job), f"Stopped by the edge worker: {cancel.reason}")
            self._runs.stop(job, cancel.reason)

    async def dropped(self, ref: JobRef) -> None:
        """Let go of a job that is not ours any more; nothing is reported."""
        job = self._held.current(ref.job_id, ref.fence)
        if job is None or job.state is LocalJobState.DROPPED:
            return
        if job.state is not LocalJobState.LAUNCHED:
            await self._reporter.forget(job)
            return

        def drop(current: LocalJob | None) -> LocalJob | None:
            return current.to(LocalJobState.DROPPED) if current is job else current

        await self._held.change(job.job_id, drop)
        self._reporter.silence(job.job_id)
        self._runs.stop(job, "no longer this worker's")
