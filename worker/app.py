"""The worker put together: one connection, one loop, every part in its own file."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.messages import WorkerState
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Transport
from edge_mqtt.worker.api.server import ExecutionApiServer
from edge_mqtt.worker.bridge.assignments import Assignments
from edge_mqtt.worker.bridge.clock_watch import ClockWatch
from edge_mqtt.worker.bridge.lease_guard import LeaseGuard
from edge_mqtt.worker.bridge.presence import PresenceLoop
from edge_mqtt.worker.bridge.results import Results
from edge_mqtt.worker.config import WorkerSettings
from edge_mqtt.worker.core.drain import StopSignal
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link, WorkerAddress
from edge_mqtt.worker.logs.shipper import LogShipper
from edge_mqtt.worker.message_router import MessageRouter
from edge_mqtt.worker.runs.launcher_client import LauncherClient
from edge_mqtt.worker.runs.launcher_keeper import LauncherKeeper
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.runs.watchdog import SupervisorWatchdog
from edge_mqtt.worker.shutdown import Shutdown
from edge_mqtt.worker.timing import WorkerTiming


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
        timing: WorkerTiming | None = None,
    ) -> None:
        self._settings = settings
        self._timing = timing = timing or WorkerTiming()
        self._jobs = JobStore(Spool.open(settings.state.spool))
        self._link = Link(MessageChannel(transport), address)
        plan = RunPlan(
            worker=address.name,
            concurrency=settings.concurrency,
            runs_dir=settings.state.runs,
            socket_path=settings.state.socket,
            base_log_folder=settings.base_log_folder,
        )
        self._logs = LogShipper(self._link, plan.log_file, timing)
        self._results = Results(self._jobs, self._link, self._logs, plan, timing, deletes_logs=settings.deletes_logs)
        self._supervisors = Supervisors(plan, self._jobs, launcher, self, timing)
        self._launcher_keeper = LauncherKeeper(self._supervisors, timing)
        self._lease_guard = LeaseGuard(self._jobs, self._supervisors, timing)
        self._watchdog = SupervisorWatchdog(self._jobs, self._supervisors, hung_after_s=settings.hung_after_s)
        self._clock = ClockWatch()
        self._presence = self._make_presence(version)
        self._api = self._make_api()
        self._assignments = self._make_assignments()
        self._shutdown = Shutdown(
            self._jobs,
            self._link,
            self._supervisors,
            self._presence,
            self._assignments,
            drain_timeout_s=settings.drain_timeout_s,
            timing=timing,
        )
        self._router = self._make_router()

    def _make_presence(self, version: str) -> PresenceLoop:
        return PresenceLoop(
            self._link,
            self._jobs,
            version=version,
            queues=self._settings.queues,
            concurrency=self._settings.concurrency,
            state=lambda: WorkerState.ONLINE if self._shutdown.accepts_jobs else WorkerState.DRAINING,
            record_contact=self._lease_guard.record_contact,
            clock=self._clock,
            timing=self._timing,
        )

    def _make_api(self) -> ExecutionApiServer:
        return ExecutionApiServer(
            self._jobs,
            self._link,
            stop_reason=self._supervisors.refusal_reason,
            record_permission=self._lease_guard.record_contact,
            record_call=self._watchdog.record_call,
            clock=self._clock,
            max_call_bytes=self._settings.max_message_bytes,
            timing=self._timing,
        )

    def _make_assignments(self) -> Assignments:
        return Assignments(
            self._jobs,
            self._link,
            self._supervisors,
            self._results,
            self._logs,
            queues=self._settings.queues,
            draining=lambda: not self._shutdown.accepts_jobs,
            timing=self._timing,
        )

    def _make_router(self) -> MessageRouter:
        return MessageRouter(
            self._link,
            api=self._api,
            assignments=self._assignments,
            logs=self._logs,
            presence=self._presence,
            results=self._results,
            shutdown=self._shutdown,
            supervisors=self._supervisors,
            bridge_url=self._settings.bridge_url,
        )

    async def run(self) -> ExitCode:
        """Work until a signal asks for the end or the bridge refuses us for good.

        :raises StateDirError: the state folder cannot be used.
        :raises ExceptionGroup: a part failed; the program must not go on without it.
        """
        try:
            await self._api.serve(self._settings.state.socket)
            async with asyncio.TaskGroup() as parts:
                running = [self._start_part(parts, name, work) for name, work in self._parts()]
                await self._supervisors.adopt_running()
                self._results.restore_unsent()
                await self._supervisors.launch_waiting()
                self._link.start()
                code = await self._shutdown.wait_end()
                for part in running:
                    part.cancel()
        finally:
            await self._close()
        return code

    def _parts(self) -> tuple[tuple[str, Coroutine[Any, Any, None]], ...]:
        """Return what works for as long as the worker does, by name."""
        return (
            ("events", self._router.run()),
            ("presence", self._presence.run()),
            ("lease", self._lease_guard.run()),
            ("calls", self._api.repeat_calls()),
            ("watchdog", self._watchdog.run(self._api.jobs_with_calls)),
            ("logs", self._logs.run()),
            ("results", self._results.run()),
            ("launcher", self._launcher_keeper.run()),
            ("supervisors", self._supervisors.wait_failure()),
        )

    def _start_part(self, parts: asyncio.TaskGroup, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return parts.create_task(work, name=f"worker[{self._link.address.name}].{name}")

    async def _close(self) -> None:
        await asyncio.to_thread(self._link.stop)
        await self._supervisors.close()
        await self._api.stop()
        await self._supervisors.launcher.stop()
        self._jobs.close()

    def request_stop(self, signal: StopSignal) -> None:
        """Begin to end: the first signal drains, the second stops the running tasks."""
        self._shutdown.request_stop(signal)

    # ------------------------------------------------------------ RunEvents

    def follow_launch(self, job: LocalJob) -> None:
        """Ship the job's log from now on."""
        self._logs.follow_log(job)

    async def report_exit(self, job: LocalJob, outcome: RunOutcome) -> None:
        """Report how it ended."""
        self._api.cancel_calls(job.job_id)
        await self._results.report_exit(job, outcome)

    async def give_back_job(self, job: LocalJob, reason: str) -> None:
        """Let another worker run it."""
        await self._assignments.give_back_job(job, reason)

    async def fail_job(self, job: LocalJob, reason: str) -> None:
        """Report that it will not run."""
        await self._results.report_unstarted(job, reason)
