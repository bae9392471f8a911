"""Every supervisor of this worker: launched, watched to its end, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from dataclasses import replace
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.core.slots import launchable
from edge_mqtt.worker.errors import LauncherError, LaunchRefused, SpoolError
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.logs.log_file import append_line
from edge_mqtt.worker.runs.adoption import Adoption
from edge_mqtt.worker.runs.background_tasks import BackgroundTasks
from edge_mqtt.worker.runs.launcher_client import LauncherClient
from edge_mqtt.worker.runs.leftovers import Leftovers
from edge_mqtt.worker.runs.pending_launches import PendingLaunches
from edge_mqtt.worker.runs.process_exit import wait_process_exit
from edge_mqtt.worker.runs.run_events import RunEvents
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.runs.stopping import RunningSupervisor, stop_supervisor
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.killing import kill_tree
from edge_mqtt.worker.system.oom import oom_kills
from edge_mqtt.worker.system.process import ProcessIdentity, has_child
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)

GONE: Final = "the supervisor process is gone (reboot or kill)"


def new_launch() -> str:
    """Return what tells a launch from any other of this worker; later ones are sorted behind it."""
    return f"{int(boottime() * 1e6):013x}{secrets.token_hex(4)}"


class Supervisors:
    """Every supervisor of this worker. All methods belong to the loop.

    At the start :meth:`adopt_running` comes first, once: it takes over what the worker before us left. A launch has
    two halves, so that fork and commit overlap: :meth:`begin_launch` returns the job as launched and has its
    supervisor forked, which waits for the answer to its first call. The caller stores the job, and then calls
    :meth:`finish_launch`, or :meth:`abandon_launch` when it could not be stored. :meth:`launch_waiting` does all of
    that for the accepted jobs that have room.

    Durable are the job store, and two files that each supervisor writes: one when it begins, one when it ends. How a
    run ended is told to ``events``, which stores it before it returns. A launcher that is gone raises nothing here:
    the job is given back, or its supervisor found again. After a :class:`SpoolError` a job goes on waiting, and its
    launch is tried again. What else goes wrong in the background is raised by :meth:`wait_failure`.
    """

    def __init__(
        self,
        plan: RunPlan,
        jobs: JobStore,
        launcher: LauncherClient,
        events: RunEvents,
        timing: WorkerTiming | None = None,
    ) -> None:
        self.plan = plan
        self.launcher = launcher
        self._jobs = jobs
        self._events = events
        self._timing = timing or WorkerTiming()
        self._tasks = BackgroundTasks()
        self._pending_launches = PendingLaunches(lambda job: self.launcher.launch(plan.run_request(job)))
        self._adoption = Adoption(plan, jobs, supervisors=self, events=events, tasks=self._tasks, timing=self._timing)
        self._leftovers = Leftovers(plan, self._timing)
        self._running: dict[JobId, RunningSupervisor] = {}
        self._launching = asyncio.Lock()
        self._retry: asyncio.TimerHandle | None = None
        #: Seconds between SIGTERM and SIGKILL.
        self.kill_grace_s = 10.0

    def __len__(self) -> int:
        return len(self._running)

    def refusal_reason(self, job_id: JobId) -> str | None:
        """Return why the job's heartbeats are refused; None while they are not."""
        supervisor = self._running.get(job_id)
        return supervisor.stop_reason if supervisor is not None and supervisor.is_refused else None

    def is_running(self, job_id: JobId) -> bool:
        """Tell whether the job's supervisor runs, as far as we know, and is not being stopped."""
        supervisor = self._running.get(job_id)
        return supervisor is not None and supervisor.stopping is None

    def has_task_process(self, job_id: JobId) -> bool:
        """Tell whether the job's supervisor has a child: the task's process, which it has not seen end."""
        supervisor = self._running.get(job_id)
        if supervisor is None or not supervisor.identity.is_alive() or supervisor.files.outcome.exists():
            return False
        return has_child(supervisor.identity.pid)

    # ------------------------------------------------------------ launch

    def begin_launch(self, job: LocalJob) -> LocalJob:
        """Have a job's supervisor forked; return the job as launched: to be stored, then finished or abandoned.

        :raises LaunchRefused: it can have no log file here.
        :raises SpoolError: its log file cannot be looked at now.
        """
        launched = job.moved_to(
            LocalJobState.LAUNCHED,
            secret=secrets.token_urlsafe(32),
            launch=new_launch(),
            log_base=self.plan.log_file_size(job),
        )
        self._pending_launches.begin_fork(launched)
        return launched

    async def finish_launch(self, job: LocalJob) -> None:
        """Watch the supervisor of a job that is stored as launched."""
        self._events.follow_launch(job)
        try:
            identity = await self._pending_launches.wait_supervisor(job)
        except LauncherError as error:
            self._adoption.adopt_or_give_back(job, str(error))
            return
        log.info(
            "%s started (pid %d)",
            job.label,
            identity.pid,
            extra={"action": "job_launched", "job_id": job.job_id, "pid": identity.pid},
        )
        self.watch_supervisor(job, identity, is_ours=True)

    def abandon_launch(self, job: LocalJob) -> None:
        """Leave the supervisor, if any, of a job that could not be stored: its first call is refused, and it ends."""
        if job.state is LocalJobState.LAUNCHED:
            self._tasks.start(self._remove_files_at_end(job), f"worker.abandoned[{job.job_id}]")

    async def _remove_files_at_end(self, job: LocalJob) -> None:
        try:
            identity = await self._pending_launches.wait_supervisor(job)
        except LauncherError:
            # It may have been forked before the launcher died: its end is not seen, and leaves a file.
            self._adoption.sweep_later()
            return
        try:
            async with asyncio.timeout(self._timing.late_supervisor_s):
                await wait_process_exit(identity)
        except TimeoutError:
            log.warning(
                "%s: a supervisor that may not start hangs (pid %d), it is killed",
                job.label,
                identity.pid,
                extra={"action": "abandoned_killed", "job_id": job.job_id, "pid": identity.pid},
            )
            await asyncio.to_thread(kill_tree, identity, RunCgroup.of(self.plan.files(job).run))
            await wait_process_exit(identity)
        self.plan.files(job).delete()

    async def launch_waiting(self) -> None:
        """Launch every accepted job that has room; what cannot be launched now is stepped over, and tried again."""
        stepped_over: set[JobId] = set()
        async with self._launching:
            while ready := launchable(self._jobs, self.plan.concurrency, but=stepped_over):
                for job in ready:
                    if not await self._launch_or_fail(job):
                        stepped_over.add(job.job_id)
        if stepped_over:
            if self._retry is not None:
                self._retry.cancel()
            self._retry = asyncio.get_running_loop().call_later(self._timing.store_retry_s, self._launch_again)

    def _launch_again(self) -> None:
        self._tasks.start(self.launch_waiting(), "worker.launch")

    async def _launch_or_fail(self, job: LocalJob) -> bool:
        """Launch a job, or report that it never can be; False when it has to wait."""
        try:
            try:
                await self._launch_job(job)
            except LaunchRefused as refusal:
                await self._events.fail_job(job, str(refusal))
        except SpoolError as error:
            log.error(  # noqa: TRY400 -- the line says it all
                "a job waits to be launched: %s", error, extra={"action": "launch_waits", "job_id": job.job_id}
            )
            return False
        return True

    async def _launch_job(self, waiting: LocalJob) -> None:
        launched: LocalJob | None = None

        def launch(current: LocalJob | None) -> LocalJob | None:
            nonlocal launched
            if current is not waiting:
                return current  # Gone, or replaced a moment ago by an assignment that is launched on its own.
            launched = self.begin_launch(waiting)
            return launched

        try:
            await self._jobs.change_job(waiting.job_id, launch)
        except SpoolError:
            if launched is not None:
                self.abandon_launch(launched)
            raise
        if launched is not None:
            await self.finish_launch(launched)

    async def adopt_running(self) -> None:
        """Take over the supervisors of the worker that ran before this one."""
        await self._adoption.adopt_all()

    # ------------------------------------------------------------ end

    def watch_supervisor(self, job: LocalJob, identity: ProcessIdentity, *, is_ours: bool) -> asyncio.Task[None]:
        """Wait for a supervisor's end, and tell of it; return the task that does.

        :param is_ours: this worker's launcher forked it.
        """
        supervisor = RunningSupervisor(identity=identity, files=self.plan.files(job), is_ours=is_ours)
        self._running[job.job_id] = supervisor
        return self._tasks.start(self._await_exit(job, supervisor), f"worker.run[{job.job_id}]")

    async def _await_exit(self, job: LocalJob, supervisor: RunningSupervisor) -> None:
        await wait_process_exit(supervisor.identity)
        outcome = await self._read_outcome(job, supervisor)
        supervisor.exited.set()
        del self._running[job.job_id]
        await self._events.report_exit(job, outcome)
        await self.launch_waiting()

    async def _read_outcome(self, job: LocalJob, supervisor: RunningSupervisor) -> RunOutcome:
        outcome = None
        with contextlib.suppress(OSError, ValueError):
            outcome = RunOutcome.from_json(supervisor.files.outcome.read_bytes())
        if outcome is None or outcome.exit_code != 0 or supervisor.stop_reason:
            # Its supervisor has seen to that, unless it was killed before. The launcher may be gone too.
            await self._leftovers.clear(job, supervisor)
        if outcome is None:
            outcome = await self._reconstruct_outcome(job, supervisor)
        return replace(outcome, error=supervisor.stop_reason) if supervisor.stop_reason else outcome

    async def _reconstruct_outcome(self, job: LocalJob, supervisor: RunningSupervisor) -> RunOutcome:
        """Return how a supervisor ended that wrote nothing."""
        code = None
        if supervisor.is_ours:
            code = await self.launcher.wait_exit_code(supervisor.identity.pid, self._timing.exit_code_wait_s)
        outcome = RunOutcome(error=GONE)
        if code:
            outcome = RunOutcome.of_exit_code(code, oom_kills=oom_kills() - supervisor.oom_kills)
        if not supervisor.stop_reason:
            text = f"The task's supervisor on the edge has ended without a word: {outcome.cause}"
            append_line(self.plan.log_file(job), text)
        return outcome

    def stop_job(self, job: LocalJob, reason: str, *, grace_s: float | None = None) -> None:
        """Stop a job: SIGTERM for its task, SIGKILL for everything that its supervisor started. Once asked, asked.

        :param grace_s: seconds between the two; None: what the bridge wants.
        """
        supervisor = self._running.get(job.job_id)
        if supervisor is None or supervisor.stopping is not None:
            return
        supervisor.stop_reason = reason
        grace_s = self.kill_grace_s if grace_s is None else grace_s
        log.info("stopping %s: %s", job.label, reason, extra={"action": "job_stopping", "job_id": job.job_id})
        stopping = stop_supervisor(
            supervisor, grace_s, self._timing, lambda killed: self._leftovers.tell(job, supervisor, killed)
        )
        supervisor.stopping = self._tasks.start(stopping, f"worker.stop[{job.job_id}]")

    # ------------------------------------------------------------ whole life

    async def wait_failure(self) -> None:
        """Wait for the failure of what works in the background, and raise it."""
        await self._tasks.wait_failure()

    async def close(self) -> None:
        """Stop watching; supervisors that run go on."""
        if self._retry is not None:
            self._retry.cancel()
        await self._tasks.close()
        await self._pending_launches.close()
