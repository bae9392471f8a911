"""Supervisors: launched, watched, stopped, found again. A thin model of ``worker/running.py``."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages.base import MAX_INTEGER
from edge_mqtt.worker.core.jobs import HeldByUs, JobState
from edge_mqtt.worker.core.slots import launchable
from edge_mqtt.worker.order import RunOutcome
from edge_mqtt.worker.running import AIRFLOW_ESCALATION_S, GONE
from tests.simulation.clock import Event, Lock, Shell

if TYPE_CHECKING:
    from tests.simulation.machine import Process, RunFiles
    from tests.simulation.worker import Worker

WITH_PROCESS: Final = (JobState.LAUNCHED, JobState.DROPPED)


@dataclass
class _Run:
    #: None when the process had ended before this worker began.
    process: Process | None
    ours: bool
    exited: Event = field(default_factory=Event)
    stop_reason: str | None = None
    refused: bool = False
    stopping: bool = False


class Runs:
    """Every supervisor of this worker, for one life of it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._machine = worker.machine
        self._life = worker.life
        self._runs: dict[JobId, _Run] = {}
        self.kill_grace_s = 10.0
        self._launching = Lock()

    def refuses(self, job_id: JobId) -> bool:
        """Tell whether the job's heartbeats are refused."""
        run = self._runs.get(job_id)
        return run is not None and run.refused

    def is_stopping(self, job_id: JobId) -> bool:
        """Tell whether the job is being stopped."""
        run = self._runs.get(job_id)
        return run is not None and run.stopping

    def with_process(self) -> list[HeldByUs]:
        """Return the jobs whose supervisor may be alive."""
        return [job for job in self._worker.held.values() if job.state in WITH_PROCESS]

    # ------------------------------------------------------------ start

    def prepared(self, job: HeldByUs) -> HeldByUs:
        """Return ``job`` as launched."""
        secret = f"secret{self._worker.world.count()}"
        return job.to(JobState.LAUNCHED, secret=secret, log_base=self._worker.log_size(job))

    def launch_ready(self) -> Shell:
        """Launch every accepted job that has room."""
        yield self._launching.acquire
        for job in launchable(self._worker.held.values(), self._worker.concurrency):
            stored = yield from self._worker.change(job.job_id, partial(self._launched, job))
            if stored is not None and stored.state is JobState.LAUNCHED:
                yield from self.start(stored)
        self._launching.release()

    def _launched(self, expected: HeldByUs, job: HeldByUs | None) -> HeldByUs | None:
        return self.prepared(expected) if job is expected else job

    def start(self, job: HeldByUs) -> Shell:
        """Start the supervisor of a job that the spool has as launched."""
        self._worker.logs.follow(job)
        yield self._life.sleep(self._worker.world.chance.uniform(0.01, 0.1))
        self._worker.step()
        if self._worker.world.chance.random() < self._worker.world.launcher_fails:
            if self._claim(job):
                yield from self._worker.unstarted(job, "the launcher is gone")
            else:
                self._adopt(job)
            return
        process = self._machine.fork(job)
        self._machine.bound_log(job, MAX_INTEGER)
        self._worker.step()
        self._watch(job, process, ours=True)

    def _files(self, job: HeldByUs) -> RunFiles:
        from tests.simulation.machine import RunFiles

        return self._machine.runs.setdefault((job.job_id, job.fence), RunFiles())

    def _claim(self, job: HeldByUs) -> bool:
        """Create the process file without a process, so that none can begin any more; False when there is one."""
        files = self._files(job)
        if files.owner is not None:
            return False
        files.owner = 0
        return True

    def find_again(self) -> Shell:
        """Take over the supervisors of the worker that ran before this one."""
        for job in self.with_process():
            if self._claim(job):
                yield from self._worker.unstarted(job, "the worker was restarted before the job had started")
            else:
                self._adopt(job)

    def _adopt(self, job: HeldByUs) -> None:
        self._worker.logs.follow(job)
        pid = self._files(job).owner
        process = next((process for process in self._machine.living() if process.pid == pid), None)
        self._watch(job, process, ours=False)
        if job.state is JobState.DROPPED:
            self.stop(job, "no longer this worker's")

    # ------------------------------------------------------------ end

    def _watch(self, job: HeldByUs, process: Process | None, *, ours: bool) -> None:
        run = self._runs[job.job_id] = _Run(process, ours)
        self._life.spawn(self._until_exit(job, run))

    def _until_exit(self, job: HeldByUs, run: _Run) -> Shell:
        if run.process is not None:
            yield run.process.exited.wait
        yield self._life.sleep(0.01)
        outcome = self._outcome(job, run)
        run.exited.set()
        del self._runs[job.job_id]
        yield from self._worker.exited(job, outcome)
        yield from self.launch_ready()

    def _outcome(self, job: HeldByUs, run: _Run) -> RunOutcome:
        outcome = self._files(job).outcome or RunOutcome(error=GONE)
        if outcome.error == GONE and run.ours and run.process is not None and run.process.signal is not None:
            outcome = RunOutcome(signal=run.process.signal)
        return replace(outcome, error=run.stop_reason) if run.stop_reason else outcome

    def stop(self, job: HeldByUs, reason: str, *, grace_s: float | None = None) -> None:
        """Stop a job's supervisor; once asked, asked."""
        run = self._runs.get(job.job_id)
        if run is None or run.stopping:
            return
        run.stop_reason, run.stopping = reason, True
        self._life.spawn(self._stop(run, reason, self.kill_grace_s if grace_s is None else grace_s))

    def _stop(self, run: _Run, reason: str, grace_s: float) -> Shell:
        clock = self._worker.world.clock
        began, process = clock.now, run.process
        if process is None or not process.alive:
            return
        process.terminate(reason)
        yield run.exited.within(self._life, max(0.0, grace_s - AIRFLOW_ESCALATION_S))
        if run.exited.is_set:
            return
        run.refused = True
        yield run.exited.within(self._life, max(0.0, grace_s - (clock.now - began)))
        if not run.exited.is_set and process.alive:
            process.kill(reason)
