"""Supervisors: launched, watched, stopped, found again after a restart."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import signal
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.core.slots import launchable
from edge_mqtt.worker.errors import LauncherError, SpoolError
from edge_mqtt.worker.ipc.run_files import sweep
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.logs.log_file import note
from edge_mqtt.worker.runs.launcher_client import LauncherClient
from edge_mqtt.worker.runs.pending_launches import PendingLaunches
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.system.oom import oom_kills
from edge_mqtt.worker.system.process import (
    ProcessIdentity,
    has_child,
    kill_below,
    kill_orphans,
    kill_tree,
    process_exit,
    signal_process,
)

log = logging.getLogger(__name__)

#: Seconds that the launcher gets to say how a supervisor died that wrote nothing.
EXIT_CODE_WAIT_S: Final = 2.0
#: Seconds before the SIGKILL from which on a task's heartbeats are refused. Airflow's supervisor, which makes one a
#: second, then repeats the SIGTERM and waits 5 s for the task's end before it sends SIGKILL itself (``kill`` in
#: airflow.sdk execution_time/supervisor.py): it has to be waiting when ours comes, and ours has to come first.
REFUSED_BEFORE_S: Final = 3.0
#: Seconds that a supervisor gets to end by itself when its task is killed.
SUPERVISOR_END_S: Final = 3.0
#: Seconds after which a supervisor that was given up, and came too late, has come and gone.
LATECOMER_S: Final = 60.0
#: Seconds between attempts while the disk is full.
STORE_RETRY_S: Final = 5.0
GONE: Final = "the supervisor process is gone (reboot or kill)"


@dataclass(slots=True)
class _Run:
    """A supervisor that is alive, as far as we know."""

    identity: ProcessIdentity
    ours: bool
    #: Processes that the kernel had killed for want of memory by then.
    oom_kills: int = field(default_factory=oom_kills)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    #: Why it is being stopped.
    stop_reason: str | None = None
    #: Heartbeats are refused now.
    refused: bool = False
    stopping: asyncio.Task[None] | None = None


class RunEvents(Protocol):
    """Whom runs tell."""

    def launched(self, job: LocalJob) -> None:
        """Tell that a job's supervisor is about to start, or was found again."""

    async def exited(self, job: LocalJob, outcome: RunOutcome) -> None:
        """Tell how a run ended."""

    async def unstarted(self, job: LocalJob, reason: str) -> None:
        """Tell that a job could not be started, and never was."""


class Supervisors:
    """Every supervisor of this worker."""

    def __init__(self, plan: RunPlan, held: JobStore, launcher: LauncherClient, events: RunEvents) -> None:
        self.plan = plan
        self._held = held
        self.launcher = launcher
        self._events = events
        self._forks = PendingLaunches(lambda job: self.launcher.launch(plan.order(job)))
        self._runs: dict[JobId, _Run] = {}
        self._launching = asyncio.Lock()
        self._again: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        #: Seconds between SIGTERM and SIGKILL.
        self.kill_grace_s = 10.0

    def __len__(self) -> int:
        return len(self._runs)

    def refuses(self, job_id: JobId) -> str | None:
        """Return why the job's heartbeats are refused; None while they are not."""
        run = self._runs.get(job_id)
        return run.stop_reason if run is not None and run.refused else None

    def goes_on(self, job_id: JobId) -> bool:
        """Tell whether the job's supervisor runs, as far as we know, and is not being stopped."""
        run = self._runs.get(job_id)
        return run is not None and run.stopping is None

    def has_child(self, job_id: JobId) -> bool:
        """Tell whether the job's supervisor has a child: the task's process, which it has not seen end."""
        run = self._runs.get(job_id)
        return run is not None and run.identity.alive() and has_child(run.identity.pid)

    # ------------------------------------------------------------ start

    def prepared(self, job: LocalJob) -> LocalJob:
        """Return ``job`` as launched, to be stored before :meth:`start` is called."""
        return job.to(
            LocalJobState.LAUNCHED,
            secret=secrets.token_urlsafe(32),
            launch=secrets.token_hex(4),
            log_base=self.plan.log_file_size(job),
        )

    def forked(self, job: LocalJob) -> LocalJob:
        """Have a job's supervisor forked; return it as launched: to be stored, and then started or abandoned."""
        launched = self.prepared(job)
        self._forks.begin(launched)
        return launched

    def abandon(self, job: LocalJob) -> None:
        """Leave the supervisor, if any, of a job that could not be stored: its first call is refused, and it ends."""
        if job.state is LocalJobState.LAUNCHED:
            self._spawn(self._until_gone(job), f"worker.abandoned[{job.job_id}]")

    async def _until_gone(self, job: LocalJob) -> None:
        with contextlib.suppress(LauncherError):
            await process_exit(await self._forks.supervisor(job))
        self.plan.files(job).remove()

    async def launch_ready(self) -> None:
        """Launch every accepted job that has room."""
        async with self._launching:
            for job in launchable(self._held, self.plan.concurrency):
                try:
                    await self._launch(job)
                except SpoolError as error:
                    log.error("a job waits to be launched: %s", error, extra={"action": "launch_waits"})  # noqa: TRY400
                    self._again = asyncio.get_running_loop().call_later(STORE_RETRY_S, self._launch_again)
                    return

    def _launch_again(self) -> None:
        self._spawn(self.launch_ready(), "worker.launch")

    async def _launch(self, waiting: LocalJob) -> None:
        launched: LocalJob | None = None

        def launch(current: LocalJob | None) -> LocalJob | None:
            nonlocal launched
            if current is not waiting:
                return current  # Gone, or replaced a moment ago, and whoever replaced it starts what he has launched.
            launched = self.forked(waiting)
            return launched

        try:
            await self._held.change(waiting.job_id, launch)
        except SpoolError:
            if launched is not None:
                self.abandon(launched)
            raise
        if launched is not None:
            await self.start(launched)

    async def start(self, job: LocalJob) -> None:
        """Start the supervisor of a job that the spool has as launched."""
        self._events.launched(job)
        try:
            identity = await self._forks.supervisor(job)
        except LauncherError as error:
            if self.plan.files(job).claim_for_nobody():
                self._give_back(job, str(error))
            else:
                self._adopt(job)
            return
        log.info(
            "%s started (pid %d)",
            describe(job),
            identity.pid,
            extra={"action": "job_launched", "job_id": job.job_id, "pid": identity.pid},
        )
        self._watch(job, identity, ours=True)

    # ------------------------------------------------------------ restart

    async def find_again(self) -> None:
        """Take over the supervisors of the worker that ran before this one."""
        self._spawn(self._sweep(), "worker.sweep")
        ended = []
        for job in self._held.with_process():
            if self.plan.files(job).claim_for_nobody():
                # Stored as launched, but nothing ever came to run it; and now nothing can any more.
                ended.append(self._give_back(job, "the worker was restarted before the job had started"))
            else:
                watch = self._adopt(job)
                if not self._runs[job.job_id].identity.alive():
                    ended.append(watch)
        # So that our first word to the centre does not call running what has ended: it would have it dropped, and
        # with it the end of its log, when it has given the job up meanwhile.
        if ended:
            await asyncio.wait(ended, timeout=STORE_RETRY_S)

    def _give_back(self, job: LocalJob, reason: str) -> asyncio.Task[None]:
        # Aside: it may have to wait for the disk, for which running jobs and what comes over the link must not.
        return self._spawn(self._unstarted(job, reason), f"worker.unstarted[{job.job_id}]")

    async def _unstarted(self, job: LocalJob, reason: str) -> None:
        await self._events.unstarted(job, reason)
        self._spawn(self._sweep(), "worker.sweep")

    async def _sweep(self) -> None:
        """Delete, some time later, what runs have left that are not held any more.

        Their supervisor came when its job was given back already and was refused, or the worker before us died before
        it could delete them.
        """
        await asyncio.sleep(LATECOMER_S)
        try:
            count = sweep(self.plan.runs_dir, (self.plan.files(job) for job in self._held))
        except OSError as error:
            log.warning("old runs' files stay: %s", error, extra={"action": "sweep_failed"})
        else:
            if count:
                log.info("deleted %d files of old runs", count, extra={"action": "runs_swept"})

    def _adopt(self, job: LocalJob) -> asyncio.Task[None]:
        self._events.launched(job)
        text = self.plan.files(job).process.read_text(encoding="ascii", errors="replace")
        identity = ProcessIdentity.parse(text) or ProcessIdentity(pid=0, start=0, boot="")
        if identity.alive():
            log.info(
                "%s goes on (pid %d)",
                describe(job),
                identity.pid,
                extra={"action": "job_adopted", "job_id": job.job_id, "pid": identity.pid},
            )
        watch = self._watch(job, identity, ours=False)
        if job.state is LocalJobState.DROPPED:
            self.stop(job, "no longer this worker's")
        return watch

    # ------------------------------------------------------------ end

    def _watch(self, job: LocalJob, identity: ProcessIdentity, *, ours: bool) -> asyncio.Task[None]:
        run = self._runs[job.job_id] = _Run(identity=identity, ours=ours)
        name = f"worker.run[{job.job_id}]"
        return self._spawn(self._until_exit(job, run), name)

    async def _until_exit(self, job: LocalJob, run: _Run) -> None:
        await process_exit(run.identity)
        outcome = await self._outcome(job, run)
        run.exited.set()
        del self._runs[job.job_id]
        await self._events.exited(job, outcome)
        await self.launch_ready()

    async def _outcome(self, job: LocalJob, run: _Run) -> RunOutcome:
        outcome = RunOutcome(error=GONE)
        try:
            outcome = RunOutcome.from_json(self.plan.files(job).outcome.read_bytes())
        except (OSError, ValueError):
            # It was killed, so its task was not, which would run beside the next try. The launcher may be gone too.
            orphans = await asyncio.to_thread(kill_orphans, run.identity)
            if orphans:
                log.warning(
                    "%s: killed %d processes that its supervisor left",
                    describe(job),
                    orphans,
                    extra={"action": "orphans_killed", "job_id": job.job_id},
                )
            code = await self.launcher.exit_code(run.identity.pid, EXIT_CODE_WAIT_S) if run.ours else None
            if code:
                outcome = RunOutcome.of_exit_code(code, oom_kills=oom_kills() - run.oom_kills)
            if not run.stop_reason:
                text = f"The task's supervisor on the edge has ended without a word: {outcome.cause}"
                note(self.plan.log_file(job), text)
        return replace(outcome, error=run.stop_reason) if run.stop_reason else outcome

    def stop(self, job: LocalJob, reason: str, *, grace_s: float | None = None) -> None:
        """Stop a job: SIGTERM for its task, SIGKILL for everything that its supervisor started. Once asked, asked.

        :param grace_s: seconds between the two; None: what the centre wants.
        """
        run = self._runs.get(job.job_id)
        if run is None or run.stopping is not None:
            return
        run.stop_reason = reason
        grace = self.kill_grace_s if grace_s is None else grace_s
        log.info("stopping %s: %s", describe(job), reason, extra={"action": "job_stopping", "job_id": job.job_id})
        name = f"worker.stop[{job.job_id}]"
        run.stopping = self._spawn(self._stop(run, grace), name)

    async def _stop(self, run: _Run, grace_s: float) -> None:
        loop = asyncio.get_running_loop()
        kill_at = loop.time() + grace_s
        # Airflow's supervisor passes it on to the task, whose operator cleans up (on_kill) and may end by itself.
        signal_process(run.identity, signal.SIGTERM)
        if await _within(run.exited, grace_s - REFUSED_BEFORE_S):
            return
        # Most tasks do not end on SIGTERM. Told that its task must not go on, Airflow's supervisor takes its end for
        # what was wanted: it writes so into the task's log, asks the centre nothing and ends in good order.
        run.refused = True
        if await _within(run.exited, kill_at - loop.time()):
            return
        kill_below(run.identity)
        if not await _within(run.exited, SUPERVISOR_END_S):
            kill_tree(run.identity)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not self._failure.done():
            self._failure.set_exception(error)

    async def failure(self) -> None:
        """Wait for the failure of a task that works in the background, and raise it."""
        await self._failure

    async def close(self) -> None:
        """Stop watching; supervisors that run go on."""
        if self._again is not None:
            self._again.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._forks.close()


async def _within(event: asyncio.Event, timeout_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
    return event.is_set()


def describe(job: LocalJob) -> str:
    """Return what people call the job."""
    spec = job.spec
    if not spec.task_id:
        return f"{spec.type} {spec.job_id}"
    index = f"[{spec.map_index}]" if spec.map_index >= 0 else ""
    return f"{spec.dag_id}.{spec.task_id}{index} {spec.run_id} try {spec.try_number}"
