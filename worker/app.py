"""The worker put together: one connection, one loop, every part in its own file."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any, Final, assert_never

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiResponse,
    Assign,
    Cancel,
    ErrorReply,
    LogAck,
    Message,
    PresenceAck,
    ResultAck,
    Welcome,
    WorkerState,
)
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason, Transport
from edge_mqtt.worker.api.server import ExecutionApiServer
from edge_mqtt.worker.bridge.assignments import Assignments
from edge_mqtt.worker.bridge.presence import PresenceLoop
from edge_mqtt.worker.bridge.results import Results
from edge_mqtt.worker.config import WorkerSettings
from edge_mqtt.worker.core.drain import SETTLE_S, Ask, Drain, Phase
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.errors import LauncherError, SpoolError
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import (
    Connected,
    Disconnected,
    Link,
    LinkEvent,
    Received,
    Refused,
    WorkerAddress,
)
from edge_mqtt.worker.logs.shipper import LogShipper
from edge_mqtt.worker.runs.launcher_client import LauncherClient, LauncherProcess
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.runs.watchdog import SupervisorWatch

log = logging.getLogger(__name__)


_EXIT_CODE_OF: Final = {
    RefusalReason.PROTOCOL_VERSION: ExitCode.PROTOCOL_VERSION,
    RefusalReason.NAME_IN_USE: ExitCode.NAME_IN_USE,
    RefusalReason.NOT_AUTHORIZED: ExitCode.REFUSED,
    RefusalReason.SERVER_CERTIFICATE: ExitCode.REFUSED,
}
#: Seconds between attempts to start the launcher again.
LAUNCHER_RETRY_S: Final = 5.0
STOPPED: Final = "the worker was told to stop"


class Worker:
    """One worker, from the first connection to the exit code. Build it inside the loop that runs it."""

    def __init__(
        self,
        settings: WorkerSettings,
        address: WorkerAddress,
        transport: Transport,
        launcher: LauncherClient,
        *,
        version: str = "",
    ) -> None:
        self._settings = settings
        self._drain = Drain()
        self._draining = asyncio.Event()
        self._refusal: asyncio.Future[Refusal] = asyncio.get_running_loop().create_future()
        self._held = JobStore(Spool.open(settings.state.spool))
        self._link = Link(MessageChannel(transport), address)
        plan = RunPlan(
            worker=address.name,
            concurrency=settings.concurrency,
            runs_dir=settings.state.runs,
            socket_path=settings.state.socket,
            base_log_folder=settings.base_log_folder,
        )
        self._logs = LogShipper(self._link, plan.log_file)
        self._reporter = Results(self._held, self._link, self._logs, plan)
        self._runs = Supervisors(plan, self._held, launcher, self)
        self._presence = PresenceLoop(
            self._link, self._held, self._runs, version=version, queues=settings.queues, state=self._state
        )
        self._watch = SupervisorWatch(self._held, self._runs, hung_after_s=settings.hung_after_s)
        self._api = ExecutionApiServer(
            self._held,
            self._link,
            stop_reason=self._runs.refuses,
            permitted=self._presence.permitted,
            heard=self._watch.heard,
            max_call_bytes=settings.max_message_bytes,
        )
        self._intake = Assignments(
            self._held,
            self._link,
            self._runs,
            self._reporter,
            queues=settings.queues,
            draining=lambda: not self._drain.takes_jobs,
        )

    def _state(self) -> WorkerState:
        return WorkerState.ONLINE if self._drain.takes_jobs else WorkerState.DRAINING

    # ------------------------------------------------------------ whole life

    async def run(self) -> ExitCode:
        """Work until somebody asks for the end or the bridge will not have us.

        :raises StateDirError: the state folder cannot be used.
        :raises ExceptionGroup: a part failed; the program must not go on without it.
        """
        try:
            await self._api.serve(self._settings.state.socket)
            async with asyncio.TaskGroup() as parts:
                running = [
                    self._part(parts, name, work)
                    for name, work in (
                        ("events", self._handle_events()),
                        ("presence", self._presence.run()),
                        ("lease", self._presence.guard()),
                        ("calls", self._api.repeat()),
                        ("supervisors", self._watch.run(self._api)),
                        ("logs", self._logs.run()),
                        ("results", self._reporter.run()),
                        ("launcher", self._keep_launcher()),
                        ("runs", self._runs.failure()),
                    )
                ]
                await self._runs.find_again()
                for job in self._held:
                    if job.result is not None:
                        self._logs.follow(job)
                        self._reporter.remember()
                await self._runs.launch_ready()
                self._link.start()
                code = await self._until_end()
                for part in running:
                    part.cancel()
        finally:
            await self._close()
        return code

    def _part(self, parts: asyncio.TaskGroup, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return parts.create_task(work, name=f"worker[{self._link.address.name}].{name}")

    async def _until_end(self) -> ExitCode:
        draining = asyncio.create_task(self._draining.wait())
        ends: set[asyncio.Future[Any]] = {draining, self._refusal}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        if self._refusal.done():
            return self._refused_for_good(self._refusal.result())
        terminated = await self._finish_running()
        await self._settle()
        self._presence.farewell()
        return ExitCode.FAILED if terminated else ExitCode.DONE

    def _refused_for_good(self, refusal: Refusal) -> ExitCode:
        log.error("%s", refusal.message, extra={"action": "refused", "reason": refusal.reason.value})
        # A bridge of another version has let us in: it shall give us no more jobs.
        self._presence.farewell()
        if len(self._runs):
            log.warning(
                "%d running jobs go on until their lease ends; start this worker again to take them over",
                len(self._runs),
                extra={"action": "jobs_left"},
            )
        return _EXIT_CODE_OF[refusal.reason]

    async def _finish_running(self) -> bool:
        """Wait for the running jobs, or stop them; tell whether any had to be stopped."""
        await self._intake.give_back_waiting("this worker is draining")
        loop = asyncio.get_running_loop()
        stopped = False
        while len(self._runs):
            self._drain = self._drain.at(loop.time())
            if self._drain.phase is Phase.TERMINATING:
                for job in self._held.with_process():
                    stopped = True
                    self._runs.stop(job, STOPPED)
            self._draining.clear()
            deadline = self._drain.deadline
            waits = {
                asyncio.create_task(self._held.until(lambda held: not held.with_process())),
                asyncio.create_task(self._draining.wait()),
            }
            timeout = None if deadline is None else max(0.0, deadline - loop.time())
            _, left = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            for task in left:
                task.cancel()
            # The last run's end is in the spool before the run itself is over.
            await asyncio.sleep(0)
        return stopped

    async def _settle(self) -> None:
        """Give results and logs a little time to reach the centre; what does not is sent at the next start."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S if self._link.ready else 0):
                await self._held.until(lambda held: not len(held))
        if len(self._held):
            log.warning(
                "%d results or logs wait in the spool and are sent at the next start",
                len(self._held),
                extra={"action": "unsent_left"},
            )

    async def _close(self) -> None:
        await asyncio.to_thread(self._link.stop)
        await self._runs.close()
        await self._api.stop()
        await self._runs.launcher.stop()
        self._held.close()

    def ask(self, ask: Ask) -> None:
        """Take a signal: the first drains, the second stops the running tasks."""
        now = asyncio.get_running_loop().time()
        self._drain = self._drain.asked(ask, now, drain_timeout_s=self._settings.drain_timeout_s)
        if self._drain.phase is Phase.TERMINATING and not len(self._runs):
            log.info("no job runs any more: results and logs are being sent", extra={"action": "terminating"})
        elif self._drain.phase is Phase.TERMINATING:
            log.warning("stopping the running jobs (%d)", len(self._runs), extra={"action": "terminating"})
        else:
            log.info(
                "draining: %d running jobs are finished, no new ones are taken; once more stops them",
                len(self._runs),
                extra={"action": "draining"},
            )
        self._draining.set()
        self._presence.changed()

    # ------------------------------------------------------------ what comes over the link

    async def _handle_events(self) -> None:
        while True:
            event = await self._link.events.get()
            await self._handle(event)

    async def _handle(self, event: LinkEvent) -> None:
        match event:
            case Connected():
                self._link.ready = False
                log.info("connected to %s", self._settings.bridge_url, extra={"action": "connected"})
                self._presence.connected()
            case Disconnected(reason):
                self._link.ready = False
                log.warning("connection lost: %s; trying again", reason, extra={"action": "disconnected"})
            case Refused(refusal):
                if not self._refusal.done():
                    self._refusal.set_result(refusal)
            case Received(message):
                try:
                    await self._received(message)
                except SpoolError as error:
                    # What could not be stored is not acknowledged: the bridge says it again.
                    log.error("%s", error, extra={"action": "spool_failed", "kind": message.kind})  # noqa: TRY400
            case _:
                assert_never(event)

    async def _received(self, message: Message) -> None:
        match message:
            case Assign():
                await self._intake.assigned(message)
            case Cancel():
                await self._intake.cancelled(message)
            case ApiResponse():
                self._api.answered(message)
            case LogAck():
                self._logs.acknowledge(message)
                await self._reporter.settle(message.job_id)
            case ResultAck():
                await self._reporter.acknowledged(message.job_id, message.fence)
            case PresenceAck():
                self._presence.confirmed(message)
            case Welcome():
                await self._welcomed(message)
            case ErrorReply():
                log.warning(
                    "the bridge did not understand a message: %s", message.error, extra={"action": "bridge_error"}
                )
            case _:
                log.debug("%s ignored", message.kind, extra={"action": "message_ignored"})

    async def _welcomed(self, welcome: Welcome) -> None:
        if (welcome.incarnation, welcome.connection) != (self._link.address.incarnation, self._link.connection):
            return
        self._runs.kill_grace_s = welcome.kill_grace_s
        for ref in welcome.drop:
            await self._intake.dropped(ref)
        for ref in welcome.known_results:
            await self._reporter.acknowledged(ref.job_id, ref.fence)
        self._link.ready = True
        self._logs.resume(welcome.logs)
        self._presence.welcomed(welcome)
        self._reporter.resend()
        self._api.resend()

    # ------------------------------------------------------------ RunEvents

    def launched(self, job: LocalJob) -> None:
        """Ship the job's log from now on."""
        self._logs.follow(job)

    async def exited(self, job: LocalJob, outcome: RunOutcome) -> None:
        """Report how it ended."""
        self._api.forget(job.job_id)
        await self._reporter.finished(job, outcome)

    async def unstarted(self, job: LocalJob, reason: str) -> None:
        """Give it back."""
        await self._intake.unstarted(job, reason)

    # ------------------------------------------------------------ launcher

    async def _keep_launcher(self) -> None:
        """Start the launcher again when it is gone (killed for want of memory, say)."""
        while True:
            await self._runs.launcher.gone.wait()
            await self._runs.launcher.stop()
            await asyncio.sleep(LAUNCHER_RETRY_S)
            launcher = LauncherClient(LauncherProcess())
            try:
                await launcher.ready()
            except LauncherError as error:
                log.error("%s", error, extra={"action": "launcher_failed"})  # noqa: TRY400
                launcher.gone.set()
                self._runs.launcher = launcher
                continue
            self._runs.launcher = launcher
            log.info("the launcher is back", extra={"action": "launcher_back"})
            await self._runs.launch_ready()
