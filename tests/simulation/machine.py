"""An edge machine: a disk, processes, and the guard that stays behind when the worker's program dies.

A process here is Airflow's supervisor and its task in one. Modelled after ``worker/supervisor_main.py`` and
``worker/api_client.py``; the guard after ``worker/launcher_main.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, WorkloadType
from edge_mqtt.broker_bridge.protocol.messages.base import MAX_INTEGER
from edge_mqtt.worker.core.jobs import HeldByUs
from edge_mqtt.worker.core.lease import Lease
from edge_mqtt.worker.order import RunOutcome
from tests.simulation.airflow_db import OK
from tests.simulation.clock import Event, Life, Shell
from tests.simulation.plan import Work
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

GUARD_INTERVAL_S: Final = 1.0
#: Between the heartbeats of a supervisor, and between its attempts to reach the worker.
HEARTBEAT_S: Final = 5.0
RETRY_S: Final = 1.0
#: Seconds that this machine has been up when the run begins: its clock is nobody else's.
UPTIME_S: Final = 50_000.0


@dataclass
class RunFiles:
    """What one assignment's run leaves on the disk."""

    #: The pid of the process that owns the run; 0 when it was taken back before there was one.
    owner: int | None = None
    outcome: RunOutcome | None = None


class Machine:
    """One edge machine, over all its boots."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.spool: dict[JobId, HeldByUs] = {}
        self.runs: dict[tuple[JobId, Fence], RunFiles] = {}
        self.logs: dict[str, bytearray] = {}
        #: Where each run's own bytes stand in its log file, kept for the verdict.
        self.log_bounds: dict[tuple[JobId, Fence], tuple[int, int]] = {}
        self.lease_file: Lease | None = None
        self._booted_at = -UPTIME_S
        self.processes: list[Process] = []
        self.worker = Worker(world, self)

    def boottime(self) -> float:
        """Return seconds since boot."""
        return self.world.clock.now - self._booted_at

    def living(self) -> list[Process]:
        """Return the processes that run."""
        return [process for process in self.processes if process.alive]

    def fork(self, job: HeldByUs) -> Process:
        """Start a supervisor."""
        process = Process(self, job)
        self.processes.append(process)
        process.life.spawn(process.run())
        return process

    def bound_log(self, job: HeldByUs, end: int) -> None:
        """Take note of where a run's bytes end, as soon as that is known. A later run of the same does not count."""
        begin, known = self.log_bounds.get((job.job_id, job.fence), (job.log_base, MAX_INTEGER))
        if begin == job.log_base:
            self.log_bounds[job.job_id, job.fence] = (begin, min(known, end))

    def reboot(self) -> None:
        """Lose everything but the disk. The worker is dead already; it starts again with the system."""
        for process in self.living():
            process.die(None)
        self._booted_at = self.world.clock.now

    def guard(self) -> None:
        """Stop what runs when its lease ends and no worker is there to do it."""
        lease, now = self.lease_file or Lease(stop_at=0.0, kill_at=0.0), self.boottime()
        for process in self.living():
            if process.launcher.alive or now < lease.stop_at:
                continue
            if now >= lease.kill_at:
                process.kill("its lease ended without a worker")
            elif not process.told_to_end:
                process.terminate("its lease ends without a worker")

    def watch(self) -> Shell:
        """Guard for ever."""
        life = Life(self.world.clock)
        while True:
            yield life.sleep(GUARD_INTERVAL_S)
            self.guard()


class Process:
    """A supervisor with its task. It outlives the worker's program."""

    def __init__(self, machine: Machine, job: HeldByUs) -> None:
        self._world = machine.world
        self._machine = machine
        self.life = Life(machine.world.clock)
        self.exited = Event()
        self.pid = machine.world.count()
        self.spec: JobSpec = job.spec
        self.job_id = job.job_id
        self.fence = job.fence
        self.secret = job.secret
        #: The life of the worker that had it started.
        self.launcher = machine.worker.life
        self.has_begun = False
        self.told_to_end = False
        self.signal: int | None = None
        self.work: Work = machine.world.plan.work[int(job.spec.task_id)]

    def __str__(self) -> str:
        return f"{self._machine.name}:{self.pid} ({self.job_id}, fence {self.fence})"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.life.alive

    @property
    def files(self) -> RunFiles:
        """Its run's files."""
        return self._machine.runs.setdefault((self.job_id, self.fence), RunFiles())

    # ------------------------------------------------------------ what it does

    def run(self) -> Shell:
        """Ask for permission, run the user code, tell Airflow, and write down how it ended."""
        chance = self._world.chance
        yield self.life.sleep(chance.uniform(0.05, 0.5))
        if self.files.owner is not None:
            self.die(None)
            return
        self.files.owner = self.pid
        self.life.spawn(self._heartbeat())
        if chance.random() < 0.3:
            self.write(b"supervisor\n")
        callback = self.spec.type is WorkloadType.CALLBACK
        status = yield from self._call("start" if callback else "run", f"{self._machine.name}:{self.pid}")
        if status != OK:
            self.die(RunOutcome(exit_code=1, error=f"refused with {status}"))
            return
        self._world.promises.user_code_begins(self)
        self._world.trace("%s begins", self)
        self.has_begun = True
        yield from self._user_code()
        exit_code = yield from self._final_call()
        self.die(RunOutcome(exit_code=exit_code))

    def _user_code(self) -> Shell:
        calls = 0
        for step, amount in self._part():
            if step == "log":
                self.write(self._line(int(amount)))
            elif step == "sleep":
                yield self.life.sleep(amount)
            elif self.spec.type is WorkloadType.TASK:
                yield from self._call("call", str(calls))
                calls += 1

    def _part(self) -> tuple[tuple[str, float], ...]:
        """Return the steps before the deferral, those after it, or all of them."""
        script = self.work.script
        half = len(script) // 2
        if not self.work.defers:
            return script
        return script[half:] if self.spec.workload["resumed"] else script[:half]

    def _final_call(self) -> Shell:
        if self.spec.type is WorkloadType.CALLBACK:
            return self.work.exit_code
        if self.work.defers and not self.spec.workload["resumed"]:
            status = yield from self._call("state", "deferred")
            return 0 if status == OK else 1
        status = yield from self._call("state", "failed" if self.work.exit_code else "success")
        return self.work.exit_code if status == OK else 1

    def _line(self, size: int) -> bytes:
        head = f"{self.job_id}:{self.pid}:{self._world.count()} ".encode()
        return (head * (size // len(head) + 1))[: size - 1] + b"\n"

    def write(self, data: bytes) -> None:
        """Add to the task's log."""
        if self.spec.log_path is not None:
            self._machine.logs.setdefault(self.spec.log_path, bytearray()).extend(data)
            self._machine.worker.log_written()

    def _call(self, target: str, body: str) -> Shell:
        """Make a call, again and again until it is answered."""
        request_id = f"r{self._world.count()}"
        answered = Event()
        statuses: list[int] = []

        def answer(status: int) -> None:
            if self.alive and not statuses:
                statuses.append(status)
                answered.set()

        while not statuses:
            self._machine.worker.call(self, request_id, target, body, answer)
            yield answered.within(self.life, RETRY_S)
        return statuses[0]

    def _heartbeat(self) -> Shell:
        while True:
            yield self.life.sleep(HEARTBEAT_S)
            if self._machine.worker.refuses(self.job_id):
                self.write(b"killed by its supervisor\n")
                self.die(RunOutcome(exit_code=1))
                return

    # ------------------------------------------------------------ how it ends

    def die(self, outcome: RunOutcome | None) -> None:
        """End; ``outcome`` is written down first, if there is time for it."""
        if not self.alive:
            return
        if outcome is not None:
            self.files.outcome = outcome
        self._world.trace("%s ends: %s", self, outcome)
        self.has_begun = False
        self.life.end()
        self.exited.set()

    def terminate(self, why: str) -> None:
        """Get SIGTERM."""
        self._world.promises.signalled(self, why)
        self.told_to_end = True
        if self.work.obeys:
            self.life.after(0.5, lambda: self.die(RunOutcome(exit_code=1)))

    def kill(self, why: str) -> None:
        """Get SIGKILL."""
        self._world.promises.signalled(self, why)
        self.signal = 9
        self.die(None)
