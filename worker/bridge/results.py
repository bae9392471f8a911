"""Results: stored, sent, sent again until the centre has stored them too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import Finished
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.errors import SpoolError
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.logs.shipper import LogShipper
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.runs.supervisors import describe

log = logging.getLogger(__name__)

#: Seconds after which an unacknowledged result is sent again on a connection that is up: the centre may have had no
#: room to store it.
REPEAT_S: Final = 30.0
#: Seconds between attempts to store a result on a disk that is full.
STORE_RETRY_S: Final = 5.0


class Results:
    """Reports how jobs ended and forgets those that are settled."""

    def __init__(self, held: JobStore, link: Link, logs: LogShipper, plan: RunPlan) -> None:
        self._held = held
        self._link = link
        self._logs = logs
        self._plan = plan
        self._pending = asyncio.Event()

    async def finished(self, job: LocalJob, outcome: RunOutcome) -> None:
        """Store and report how a job's run ended."""
        result = self._result(job, outcome)

        def finish(current: LocalJob | None) -> LocalJob | None:
            if current is None or current.fence != job.fence or current.state is LocalJobState.DROPPED:
                return None
            return current.to(LocalJobState.FINISHED, result=result)

        stored = await self._store(job.job_id, finish)
        if stored is None:
            self.forget_files(job)
            self._logs.forget(job.job_id)
            return
        self._report(stored, result)

    async def cancelled(self, waiting: LocalJob, reason: str) -> None:
        """Store and report that a job that waits will not run.

        :raises SpoolError: it could not be stored, and goes on waiting.
        """
        result = self._result(waiting, RunOutcome(error=f"cancelled before it started: {reason}"))

        def cancel(current: LocalJob | None) -> LocalJob | None:
            return waiting.to(LocalJobState.FINISHED, result=result) if current is waiting else current

        stored = await self._held.change(waiting.job_id, cancel)
        if stored is not None and stored.result is result:
            self._report(stored, result)

    def _result(self, job: LocalJob, outcome: RunOutcome) -> Finished:
        return Finished(
            job_id=job.job_id,
            fence=job.fence,
            exit_code=outcome.exit_code,
            signal=outcome.signal,
            error=outcome.error,
            log_size=self._logs.size(job.job_id),
            started_at=outcome.started_at,
            ended_at=outcome.ended_at,
        )

    def _report(self, job: LocalJob, result: Finished) -> None:
        _log_end(job, result)
        self._logs.ended(job)
        self._send(job)
        self._pending.set()

    def resend(self) -> None:
        """Send every result that is not acknowledged."""
        for job in self._held:
            if not job.result_acked:
                self._send(job)

    async def acknowledged(self, job_id: JobId, fence: Fence) -> None:
        """Take note that the centre has a job's result."""

        def acked(job: LocalJob | None) -> LocalJob | None:
            if job is None or job.fence != fence or job.result is None or job.result_acked:
                return job
            return replace(job, result_acked=True)

        await self._held.change(job_id, acked)
        await self.settle(job_id)

    async def settle(self, job_id: JobId) -> None:
        """Forget a job of which the centre has everything."""
        job = self._held.get(job_id)
        if job is None or not job.settled(log_stored=self._logs.stored(job_id)):
            return
        await self.forget(job)

    async def forget(self, job: LocalJob) -> None:
        """Forget a job, files and all.

        :raises SpoolError: it could not be forgotten.
        """
        await self._held.change(job.job_id, lambda current: None if current is job else current)
        if self._held.get(job.job_id) is None:
            self._logs.forget(job.job_id)
            self.forget_files(job)

    def silence(self, job_id: JobId) -> None:
        """Ship no more of a job's log: it is somebody else's now."""
        self._logs.forget(job_id)

    def remember(self) -> None:
        """Take note that there are results from before."""
        self._pending.set()

    def forget_files(self, job: LocalJob) -> None:
        """Delete the run's files."""
        self._plan.files(job).remove()

    async def run(self) -> None:
        """Repeat what stays unacknowledged on a live connection."""
        while True:
            await self._pending.wait()
            await asyncio.sleep(REPEAT_S)
            finished = [job for job in self._held if job.result is not None]
            try:
                for job in finished:
                    await self.settle(job.job_id)
            except SpoolError as error:
                log.error("%s", error, extra={"action": "spool_failed"})  # noqa: TRY400 -- the line says it all
            if not finished:
                self._pending.clear()
            elif self._link.ready:
                self.resend()

    async def _store(self, job_id: JobId, decide: Callable[[LocalJob | None], LocalJob | None]) -> LocalJob | None:
        """Store a result, however long the disk has no room for it: it must not be lost."""
        while True:
            try:
                return await self._held.change(job_id, decide)
            except SpoolError as error:
                log.error(  # noqa: TRY400 -- the line says it all
                    "a result waits to be stored: %s", error, extra={"action": "result_waits", "job_id": job_id}
                )
                await asyncio.sleep(STORE_RETRY_S)

    def _send(self, job: LocalJob) -> None:
        if job.result is not None and self._link.ready:
            self._link.send_result(job.result)


def _log_end(job: LocalJob, result: Finished) -> None:
    if result.exit_code == 0:
        how = "ended"
    elif result.error:
        how = f"failed: {result.error}"
    elif result.signal is not None:
        how = f"was killed by signal {result.signal}"
    else:
        how = f"failed with exit code {result.exit_code}"
    log.log(
        logging.INFO if result.exit_code == 0 else logging.WARNING,
        "%s %s",
        describe(job),
        how,
        extra={"action": "job_finished", "job_id": job.job_id, "exit_code": result.exit_code},
    )
