"""An edge machine: a disk, processes, and the guard that stays behind when the worker's program dies.

A process here is Airflow's supervisor and its task in one. Modelled after ``worker/supervisor/main.py`` and
``worker/supervisor/api_transport.py``; the guard after ``worker/launcher/main.py``.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, WorkloadType
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.lease import Due, due
from edge_mqtt.worker.ipc.api_contract import START_TARGET
from edge_mqtt.worker.ipc.contact_file import contact_path, read_contact
from edge_mqtt.worker.ipc.run_files import RunFiles
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.system.files import create_exclusively
from edge_mqtt.worker.system.process import ProcessIdentity
from tests.simulation.clock import Event, Life, Shell
from tests.simulation.plan import Work
from tests.simulation.programs import Computer
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

GUARD_INTERVAL_S: Final = 1.0
#: Which part of the processes outlives a SIGKILL, and for how many seconds.
CLINGING: Final = 0.5
CLINGS_S: Final = 12.0
#: Between the heartbeats of a supervisor, and between its attempts to reach the worker.
HEARTBEAT_S: Final = 5.0
RETRY_S: Final = 1.0
#: Seconds that this machine has been up when the run begins: its clock is nobody else's.
UPTIME_S: Final = 50_000.0
#: The kernel writes what it was given to the disk this late at the latest.
SYNCED_AFTER_S: Final = 20.0
#: From here on an answer is an error.
ERROR: Final = 400


@dataclass(frozen=True, kw_only=True, slots=True)
class LogBounds:
    """Where a launch's own bytes stand in its log file."""

    launch: str
    folder: Path
    begin: int
    end: int


class Machine:
    """One edge machine, over all its boots."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.computer = Computer(world.clock, uptime_s=UPTIME_S)
        self._boots = 0
        self._folder = Path(world.folder) / name
        self._disks = 0
        #: Where the own bytes of each run's latest launch stand, kept for the verdict: in whose log folder, from
        #: where, to where.
        self.log_bounds: dict[tuple[JobId, Fence], LogBounds] = {}
        #: What a log file held each time before a loss of power tore its end off.
        self.torn_logs: dict[str, list[bytes]] = {}
        self._processes: dict[int, Process] = {}
        self._new_disk()
        self.worker = Worker(world, self)

    def _new_disk(self) -> None:
        self._disks += 1
        disk = self._folder / f"disk{self._disks}"
        self.state, self.runs, self.logs = disk / "state", disk / "state" / "runs", disk / "logs"
        self.runs.mkdir(parents=True)
        self.logs.mkdir()
        (self.logs / "loop").symlink_to("loop")

    @property
    def boot_id(self) -> str:
        """What tells this boot from the others."""
        return f"boot{self._boots}"

    def process(self, pid: int) -> Process | None:
        """Return a process, dead or alive."""
        return self._processes.get(pid)

    def is_running(self, job: LocalJob) -> bool:
        """Tell whether a launch's user code runs."""
        return any(each.has_begun and each.request.files == self._files(job) for each in self.living())

    def _files(self, job: LocalJob) -> RunFiles:
        return RunFiles.of(self.runs, job.job_id, job.fence, job.launch)

    def living(self) -> list[Process]:
        """Return the processes that run."""
        return [process for process in self._processes.values() if process.alive]

    def leftovers(self) -> list[str]:
        """Return the files of runs that nobody has deleted."""
        return [path.name for path in self.runs.iterdir() if path != contact_path(self.runs)]

    def fork(self, request: RunRequest) -> Process:
        """Start a supervisor."""
        process = Process(self, request)
        self._processes[process.pid] = process
        process.life.spawn(process.run())
        return process

    def bound_log(self, job: LocalJob, end: int) -> None:
        """Take note of where a run's bytes end, as soon as that is known."""
        run = job.job_id, job.fence
        known = self.log_bounds.get(run)
        if known is not None and known.launch == job.launch:
            end = min(known.end, end)
        self.log_bounds[run] = LogBounds(launch=job.launch, folder=self.logs, begin=job.log_base, end=end)

    def reboot(self) -> None:
        """Lose everything but the disk. The worker is dead already; it starts again with the system."""
        for process in self.living():
            process.die(None)
        self.computer.reboot()
        self._boots += 1

    def be_replaced(self) -> None:
        """Become a new machine that knows nothing, under the old one's name."""
        self.reboot()
        self._new_disk()
        self.worker.spool = None

    def lose_power(self) -> None:
        """Lose what was not synced too, and then be rebooted."""
        chance = self.world.chance
        for process in self.living():
            process.lose_files(chance)
        contact = contact_path(self.runs)
        if contact.exists() and chance.random() < 0.5:
            contact.write_bytes(b"")
        self.reboot()

    def guard(self) -> None:
        """Stop what runs when its lease ends and no worker is there to do it."""
        orphans = [process for process in self.living() if not process.launcher.alive]
        if not orphans:
            return
        now = self.computer.boottime()
        contact = read_contact(self.runs, now=now)
        for process in orphans:
            todo = due(contact, lease_s=process.request.lease_s, now=now)
            if todo is Due.KILL:
                process.kill("its lease ended without a worker")
            elif todo is Due.STOP and not process.told_to_end:
                process.terminate("its lease ends without a worker")

    def watch(self) -> Shell:
        """Guard for ever."""
        life = Life(self.world.clock)
        while True:
            yield life.sleep(GUARD_INTERVAL_S)
            self.guard()


class Process:
    """A supervisor with its task. It outlives the worker's program."""

    def __init__(self, machine: Machine, request: RunRequest) -> None:
        self._world = machine.world
        self._machine = machine
        self.life = Life(machine.world.clock)
        self.exited = Event()
        self.pid = machine.world.count()
        #: In the kernel's words.
        self.started = self.pid
        self.request = request
        self.job_id = request.job_id
        self.fence = request.fence
        self.spec: JobSpec = machine.world.jobs[request.job_id]
        #: The life of the worker that had it started.
        self.launcher = machine.worker.life
        self.has_begun = False
        self.told_to_end = False
        self.signal: int | None = None
        self._is_gone = False
        self._is_let_go = False
        self.work: Work = machine.world.plan.work[int(self.spec.task_id)]
        self._began = machine.world.clock.now
        #: Bytes of the log file that no loss of power takes away.
        self._synced = 0
        self._log = None if request.log_path is None else machine.logs / request.log_path
        if self._log is not None and self._log.exists():
            self._synced = self._log.stat().st_size

    def __str__(self) -> str:
        return f"{self._machine.name}:{self.pid} ({self.job_id}, fence {self.fence})"

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return not self._is_gone

    @property
    def _who(self) -> dict[str, object]:
        # Airflow gets that of a run call and of a heartbeat only; of the others it is for the verdict.
        return {"hostname": self._machine.name, "pid": self.pid}

    # ------------------------------------------------------------ what it does

    def run(self) -> Shell:
        """Ask for permission, run the user code, tell Airflow, and write down how it ended."""
        chance = self._world.chance
        yield self.life.sleep(chance.uniform(0.05, 0.5))
        me = ProcessIdentity(pid=self.pid, start=self.started, boot=self._machine.boot_id)
        if not create_exclusively(self.request.files.process, str(me).encode()):
            self.die(None)
            return
        if chance.random() < 0.3:
            self.write(b"supervisor\n")
        callback = self.spec.type is WorkloadType.CALLBACK
        if callback:
            status = yield from self._call("POST", START_TARGET)
        else:
            self.life.spawn(self._heartbeat())
            target = f"task-instances/{self.request.workload['ti']['id']}/run"
            status = yield from self._call("PATCH", target, self._who)
        if status >= ERROR:
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
                yield from self._call("POST", "xcoms", {"job": self.job_id, "call": calls})
                calls += 1

    def _part(self) -> tuple[tuple[str, float], ...]:
        """Return the steps before the deferral, those after it, or all of them."""
        script = self.work.script
        half = len(script) // 2
        if not self.work.pauses:
            return script
        return script[half:] if self.spec.workload["resumed"] else script[:half]

    def _final_call(self) -> Shell:
        if self.spec.type is WorkloadType.CALLBACK:
            return self.work.exit_code
        target = f"task-instances/{self.request.workload['ti']['id']}/state"
        if self.work.pauses and not self.spec.workload["resumed"]:
            status = yield from self._call("PATCH", target, {"state": self.work.pauses, **self._who})
            return 0 if status < ERROR else 1
        if self.work.is_silent:
            return self.work.exit_code
        failed = "up_for_retry" if self.spec.workload["may_retry"] else "failed"
        state = failed if self.work.exit_code else "success"
        status = yield from self._call("PATCH", target, {"state": state, **self._who})
        return self.work.exit_code if status < ERROR else 1

    def _line(self, size: int) -> bytes:
        head = f"{self.job_id}:{self.pid}:{self._world.count()} ".encode()
        return (head * (size // len(head) + 1))[: size - 1] + b"\n"

    def write(self, data: bytes) -> None:
        """Add to the task's log."""
        if self._log is not None:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("ab") as file:
                file.write(data)
                end = file.tell()
            self.life.after(SYNCED_AFTER_S, lambda: self._sync(end))

    def _sync(self, end: int) -> None:
        self._synced = max(self._synced, end)

    def _call(self, method: str, target: str, body: object = None) -> Shell:
        """Make a call, again and again until it is answered."""
        request_id = f"r{self._world.count()}"
        answered = Event()
        statuses: list[int] = []
        called: Life | None = None

        def answer(status: int) -> None:
            def take() -> None:
                if not statuses:
                    statuses.append(status)
                    answered.set()

            self.life.after(0.001, take)

        content = b"" if body is None else json.dumps(body).encode()
        worker = self._machine.worker
        while not statuses:
            # A connection that is up is waited on for ever; a worker that died has broken it.
            if worker.life is not called and worker.call(
                self.request.secret, request_id, method, target, body=content, answer=answer
            ):
                called = worker.life
            yield answered.within(self.life, RETRY_S)
        return statuses[0]

    def _heartbeat(self) -> Shell:
        target = f"task-instances/{self.request.workload['ti']['id']}/heartbeat"
        while True:
            yield self.life.sleep(HEARTBEAT_S)
            status = yield from self._call("PUT", target, self._who)
            if status >= ERROR and self.clings:
                return  # Its supervisor cannot end it either.
            if status >= ERROR:
                self.write(b"killed by its supervisor\n")
                self.die(RunOutcome(exit_code=1))
                return

    def lose_files(self, chance: random.Random) -> None:
        """Lose the end of the log, and the file that says who we are when it is new."""
        if self._log is not None and self.request.log_path is not None and self._log.exists():
            written = self._log.read_bytes()
            self._machine.torn_logs.setdefault(self.request.log_path, []).append(written)
            unsynced = max(0, len(written) - self._synced)
            os.truncate(self._log, len(written) - chance.randint(0, unsynced))
        if self._world.clock.now - self._began < SYNCED_AFTER_S and chance.random() < 0.5:
            self.request.files.process.unlink(missing_ok=True)

    # ------------------------------------------------------------ how it ends

    def die(self, outcome: RunOutcome | None) -> None:
        """End; ``outcome`` is written down first, if there is time for it."""
        if self._is_gone:
            return
        self._is_gone = True
        if outcome is not None:
            self.request.files.outcome.write_bytes(outcome.to_json())
        self._world.trace("%s ends: %s", self, outcome)
        self.has_begun = False
        self.life.end()
        self.exited.set()

    def hang(self) -> None:
        """Do nothing any more, and not end either."""
        self._world.trace("%s hangs", self)
        self.life.end()

    def terminate(self, why: str) -> None:
        """Get SIGTERM."""
        self._world.promises.signalled(self, why)
        self.told_to_end = True
        if self.work.obeys:
            self.life.after(0.5, lambda: self.die(RunOutcome(exit_code=1)))

    @property
    def clings(self) -> bool:
        """Whether a SIGKILL does not end it at once: some are another user's, or hang in the kernel.

        Never beyond its lease, which nobody could keep then.
        """
        contact = read_contact(self._machine.runs, now=self._machine.computer.boottime())
        now = self._machine.computer.boottime() + CLINGS_S
        is_over = due(contact, lease_s=self.request.lease_s, now=now) is Due.KILL
        chance = random.Random(f"{self._world.plan.seed} {self.job_id} clings").random()
        return self.life.alive and chance < CLINGING and not is_over

    def let_go_later(self, why: str) -> None:
        """Get a SIGKILL that takes its time."""
        if not self._is_let_go:
            self._is_let_go = True
            self._world.tally["clings"] += 1
            self._world.promises.signalled(self, why)
            self.life.after(CLINGS_S, lambda: self.kill(why))

    def kill(self, why: str) -> None:
        """Get SIGKILL."""
        self._world.promises.signalled(self, why)
        self.signal = 9
        self.die(None)
