"""Results: stored, sent, sent again until the bridge has stored them too."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from edge_mqtt.broker_bridge.program.log_files import delete_log_file
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import Finished, LogAck
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.errors import SpoolError
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.logs.shipper import LogShipper
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)


class Results:
    """Reports how jobs ended, and forgets those of which the bridge has everything."""

    def __init__(
        self,
        jobs: JobStore,
        link: Link,
        logs: LogShipper,
        plan: RunPlan,
        timing: WorkerTiming | None = None,
        *,
        deletes_logs: bool = False,
    ) -> None:
        """Prepare.

        :param deletes_logs: a log is deleted here when the bridge has all of it.
        """
        self._jobs = jobs
        self._link = link
        self._logs = logs
        self._plan = plan
        self._timing = timing or WorkerTiming()
        self._deletes_logs = deletes_logs
        #: There may be results that are not acknowledged.
        self._pending = asyncio.Event()

    def restore_unsent(self) -> None:
        """Take up the results and logs that the worker before us left."""
        for job in self._jobs:
            if job.result is not None:
                self._logs.follow_log(job)
                self._pending.set()

    async def report_exit(self, job: LocalJob, outcome: RunOutcome) -> None:
        """Store and report how a job's run ended, however long the disk has no room for it."""
        log_end = self._logs.end_log(job)
        result = _make_result(job, outcome, log_end.size)

        def finish(current: LocalJob | None) -> LocalJob | None:
            if current is None or current.fence != job.fence or current.state is LocalJobState.DROPPED:
                return None
            return current.moved_to(LocalJobState.FINISHED, result=result, log_base=log_end.base)

        stored = await self._store_result(job.job_id, finish)
        if stored is None:
            self._delete_files(job)
            self._logs.forget_log(job.job_id)
            return
        self._report_end(stored, result)

    async def report_unstarted(self, waiting: LocalJob, why: str) -> None:
        """Store and report that a job that waits will not run.

        :raises SpoolError: it could not be stored, and goes on waiting.
        """
        result = _make_result(waiting, RunOutcome(error=why), log_size=0)

        def finish(current: LocalJob | None) -> LocalJob | None:
            return waiting.moved_to(LocalJobState.FINISHED, result=result) if current is waiting else current

        stored = await self._jobs.change_job(waiting.job_id, finish)
        if stored is not None and stored.result is result:
            self._report_end(stored, result)

    def resend_results(self) -> None:
        """Send every result that is not acknowledged."""
        for job in self._jobs:
            if not job.result_acked:
                self._send_result(job)

    async def record_ack(self, job_id: JobId, fence: Fence) -> None:
        """Store that the bridge has a job's result.

        :raises SpoolError: it could not be stored.
        """

        def acked(job: LocalJob | None) -> LocalJob | None:
            if job is None or job.fence != fence or job.result is None or job.result_acked:
                return job
            return replace(job, result_acked=True)

        await self._jobs.change_job(job_id, acked)
        await self.forget_if_settled(job_id)

    async def record_log_ack(self, ack: LogAck) -> None:
        """Take note of what the bridge has of a log; others that are in the same file may be complete with it.

        :raises SpoolError: a job could not be forgotten.
        """
        self._logs.record_ack(ack)
        for job_id in self._logs.find_writers(ack.job_id):
            await self.forget_if_settled(job_id)

    async def forget_if_settled(self, job_id: JobId) -> None:
        """Forget a job of which the bridge has everything.

        :raises SpoolError: it could not be forgotten.
        """
        job = self._jobs.get(job_id)
        if job is not None and job.is_settled(log_stored=self._logs.is_stored(job_id)):
            await self.forget_job(job, delete_log=self._deletes_logs)

    async def forget_job(self, job: LocalJob, *, delete_log: bool = False) -> None:
        """Forget a job, and the files of its run.

        :param delete_log: delete its log, too, if nothing of it is needed here any more.
        :raises SpoolError: it could not be forgotten.
        """

        def forget(current: LocalJob | None) -> LocalJob | None:
            if current is not job:
                return current
            if delete_log:
                # While no other change is under way: no supervisor is being launched that is to write the file.
                self._delete_log(job)
            return None

        await self._keep_successor(job)
        await self._jobs.change_job(job.job_id, forget)
        if self._jobs.get(job.job_id) is None:
            self._logs.forget_log(job.job_id)
            self._delete_files(job)

    async def run(self) -> None:
        """Repeat what stays unacknowledged on a live connection."""
        while True:
            await self._pending.wait()
            await asyncio.sleep(self._timing.result_repeat_s)
            finished = [job for job in self._jobs if job.result is not None]
            try:
                for job in finished:
                    await self.forget_if_settled(job.job_id)
            except SpoolError as error:
                log.error("%s", error, extra={"action": "spool_failed"})  # noqa: TRY400 -- the line says it all
            if not finished:
                self._pending.clear()
            elif self._link.ready:
                self.resend_results()

    # ------------------------------------------------------------ parts

    def _report_end(self, job: LocalJob, result: Finished) -> None:
        _log_end(job, result)
        self._logs.finish_log(job)
        self._send_result(job)
        self._pending.set()

    def _delete_log(self, job: LocalJob) -> None:
        path = self._plan.log_file(job)
        others = any(other.spec.log_path == job.spec.log_path for other in self._jobs if other is not job)
        if path is None or others or not self._logs.is_copied(job.job_id):
            return
        try:
            delete_log_file(path, self._plan.base_log_folder)
        except OSError as error:
            log.warning(
                "the log of %s stays here: %s",
                job.label,
                error.strerror,
                extra={"action": "log_not_deleted", "job_id": job.job_id},
            )

    async def _keep_successor(self, job: LocalJob) -> None:
        """Store where the log goes on that has what is written to a job's file: the job's own end told it till now.

        :raises SpoolError: it could not be stored.
        """
        successor = self._logs.find_successor(job.job_id)
        if successor is not None and successor.base > 0:
            base = successor.base
            await self._jobs.change_job(
                successor.job_id,
                lambda current: (
                    current if current is None or current.log_base == base else replace(current, log_base=base)
                ),
            )

    def _delete_files(self, job: LocalJob) -> None:
        self._plan.files(job).delete()

    async def _store_result(
        self, job_id: JobId, decide: Callable[[LocalJob | None], LocalJob | None]
    ) -> LocalJob | None:
        """Store a result, however long the disk has no room for it: it must not be lost."""
        while True:
            try:
                return await self._jobs.change_job(job_id, decide)
            except SpoolError as error:
                log.error(  # noqa: TRY400 -- the line says it all
                    "a result waits to be stored: %s", error, extra={"action": "result_waits", "job_id": job_id}
                )
                await asyncio.sleep(self._timing.store_retry_s)

    def _send_result(self, job: LocalJob) -> None:
        if job.result is not None and self._link.ready:
            self._link.send_result(job.result)


def _make_result(job: LocalJob, outcome: RunOutcome, log_size: int) -> Finished:
    return Finished(
        job_id=job.job_id,
        fence=job.fence,
        exit_code=outcome.exit_code,
        signal=outcome.signal,
        error=outcome.error,
        log_size=log_size,
        started_at=outcome.started_at,
        ended_at=outcome.ended_at,
    )


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
        job.label,
        how,
        extra={"action": "job_finished", "job_id": job.job_id, "exit_code": result.exit_code},
    )
