"""How the worker ends: a signal finishes or stops its jobs, a refusal by the bridge for good ends it at once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any, Final

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.worker.bridge.assignments import Assignments
from edge_mqtt.worker.bridge.presence import PresenceLoop
from edge_mqtt.worker.core.drain import Drain, Phase, StopSignal
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)

STOPPED: Final = "the worker was told to stop"
DRAINING: Final = "this worker is draining"


_EXIT_CODE_OF: Final = {
    RefusalReason.PROTOCOL_VERSION: ExitCode.PROTOCOL_VERSION,
    RefusalReason.NAME_IN_USE: ExitCode.NAME_IN_USE,
    RefusalReason.NOT_AUTHORIZED: ExitCode.REFUSED,
    RefusalReason.SERVER_CERTIFICATE: ExitCode.REFUSED,
}


class Shutdown:
    """The end of one worker. Build it inside the loop.

    :param drain_timeout_s: seconds that running jobs get, 0 for as long as they take.
    """

    def __init__(
        self,
        jobs: JobStore,
        link: Link,
        supervisors: Supervisors,
        presence: PresenceLoop,
        assignments: Assignments,
        *,
        drain_timeout_s: float,
        timing: WorkerTiming,
    ) -> None:
        self._jobs = jobs
        self._link = link
        self._supervisors = supervisors
        self._presence = presence
        self._assignments = assignments
        self._drain_timeout_s = drain_timeout_s
        self._timing = timing
        self._drain = Drain()
        self._signalled = asyncio.Event()
        self._refusal: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()

    @property
    def accepts_jobs(self) -> bool:
        """Whether new jobs are accepted."""
        return self._drain.accepts_jobs

    def request_stop(self, signal: StopSignal) -> None:
        """Begin to end: the first signal drains, the second stops the running tasks."""
        now = asyncio.get_running_loop().time()
        self._drain = self._drain.after_signal(signal, now, drain_timeout_s=self._drain_timeout_s)
        running = len(self._supervisors)
        if self._drain.phase is not Phase.TERMINATING:
            log.info(
                "draining: %d running jobs are finished, no new ones are accepted; once more stops them",
                running,
                extra={"action": "draining"},
            )
        elif running:
            log.warning("stopping the running jobs (%d)", running, extra={"action": "terminating"})
        else:
            log.info("no job runs any more: results and logs are being sent", extra={"action": "terminating"})
        self._signalled.set()
        self._presence.announce_change()

    def record_refusal(self, refusal: Refusal) -> None:
        """End: there will be no connection."""
        if not self._refusal.done():
            self._refusal.set_result(refusal)

    async def wait_end(self) -> ExitCode:
        """Wait for a reason to end, and then until what is left has been done; return the exit code."""
        signalled = asyncio.create_task(self._signalled.wait())
        ends: set[asyncio.Future[Any]] = {signalled, self._refusal}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        signalled.cancel()
        if self._refusal.done():
            return self._leave_refused(self._refusal.result())
        terminated = await self._finish_running()
        await self._wait_sent()
        self._presence.send_farewell()
        return ExitCode.FAILED if terminated else ExitCode.DONE

    def _leave_refused(self, refusal: Refusal) -> ExitCode:
        log.error("%s", refusal.message, extra={"action": "refused", "reason": refusal.reason.value})
        # A bridge of another version has let us in: it shall give us no more jobs.
        self._presence.send_farewell()
        if len(self._supervisors):
            log.warning(
                "%d running jobs go on until their lease ends; start this worker again to take them over",
                len(self._supervisors),
                extra={"action": "jobs_left"},
            )
        return _EXIT_CODE_OF[refusal.reason]

    async def _finish_running(self) -> bool:
        """Wait for the running jobs, or stop them; tell whether any had to be stopped."""
        await self._assignments.give_back_waiting(DRAINING)
        loop = asyncio.get_running_loop()
        stopped = False
        while len(self._supervisors):
            self._drain = self._drain.at(loop.time())
            if self._drain.phase is Phase.TERMINATING:
                for job in self._jobs.list_supervised():
                    stopped = True
                    self._supervisors.stop_job(job, STOPPED)
            self._signalled.clear()
            deadline = self._drain.deadline
            waits = {
                asyncio.create_task(self._jobs.wait_until(lambda jobs: not jobs.list_supervised())),
                asyncio.create_task(self._signalled.wait()),
            }
            timeout = None if deadline is None else max(0.0, deadline - loop.time())
            _, left = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            # The last run's end is in the spool before the run itself is over.
            await asyncio.sleep(0)
        return stopped

    async def _wait_sent(self) -> None:
        """Give results and logs a little time to reach the bridge; what does not is sent at the next start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timing.unsent_wait_s if self._link.ready else 0):
                await self._jobs.wait_until(lambda jobs: not len(jobs))
        if len(self._jobs):
            log.warning(
                "%d results or logs wait in the spool and are sent at the next start",
                len(self._jobs),
                extra={"action": "unsent_left"},
            )
