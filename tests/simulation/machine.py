"""An edge machine: a disk, processes, and the guard that stays behind when the worker's program dies.

The guard is modelled after ``worker/launcher/main.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.core.lease import Due, due
from edge_mqtt.worker.ipc.contact_file import contact_path, read_contact
from edge_mqtt.worker.ipc.run_files import RunFiles
from edge_mqtt.worker.ipc.run_request import RunRequest
from tests.simulation.clock import Life, Shell
from tests.simulation.process import Process
from tests.simulation.programs import Computer
from tests.simulation.worker import Worker

if TYPE_CHECKING:
    from tests.simulation.world import World

GUARD_INTERVAL_S: Final = 1.0
#: Seconds that this machine has been up when the run begins: its clock is nobody else's.
UPTIME_S: Final = 50_000.0


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
