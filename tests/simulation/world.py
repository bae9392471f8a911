"""Everybody put together: one seed, one run, one verdict."""

from __future__ import annotations

import hashlib
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Outcome
from edge_mqtt.broker_bridge.protocol.topics import Topics
from tests.simulation.airflow_db import Airflow, TaskInstance
from tests.simulation.bridge import Bridge
from tests.simulation.clock import Clock, Killed, Life
from tests.simulation.faults import Outages, Trouble
from tests.simulation.machine import Machine
from tests.simulation.network import Network
from tests.simulation.plan import TROUBLE_S, Plan, plan_of
from tests.simulation.programs import Computer
from tests.simulation.promises import PromiseBroken, Promises
from tests.simulation.scheduler import Scheduler
from tests.simulation.system import simulated_system

#: Seconds that the machine of the data centre has been up when the run begins.
UPTIME_S: Final = 3_000.0


class Mortal(Protocol):
    """Something that can be killed and started again."""

    life: Life

    def start(self) -> None:
        """Begin."""

    def kill(self) -> None:
        """Die at once."""


class World:
    """One run.

    :param plan: decides everything.
    :param tell: takes every line of the trace; None when nobody reads it.
    """

    def __init__(self, plan: Plan, folder: str, tell: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.folder = folder
        self._tell = tell
        self._digest = hashlib.sha256()
        self._count = 0
        self.clock = Clock()
        #: Where bridge, schedulers and Airflow run.
        self.central = Computer(self.clock, uptime_s=UPTIME_S)
        self.chance = random.Random(f"run {plan.seed}")
        self.topics = Topics()
        self.healed = False
        #: How often a worker's launcher is gone when it is needed.
        self.launcher_fails = 0.02 if "kill worker" in self.plan.faults else 0.0
        self.jobs: dict[JobId, JobSpec] = {}
        self._excused_tasks: dict[int, str] = {}
        #: What happened how often, to see that a run is worth its name.
        self.tally: Counter[str] = Counter()
        self.promises = Promises(self)
        self.airflow = Airflow(self)
        self.network = Network(self.clock, self.chance, self.plan.manners, self.topics, self.trace)
        self.bridge = Bridge(self)
        self.machines = [Machine(self, f"lab-{number}") for number in range(self.plan.workers)]
        self.schedulers = [Scheduler(self, f"scheduler-{number}") for number in range(self.plan.executors)]
        self.outages = Outages(self)

    # ------------------------------------------------------------ the run

    def run(self) -> None:
        """Let trouble happen, heal everything, and see whether every promise was kept.

        :raises PromiseBroken: one was not.
        """
        self.bridge.start()
        for scheduler in self.schedulers:
            scheduler.start()
        for machine in self.machines:
            machine.worker.start()
            Life(self.clock).spawn(machine.watch())
        self.outages.look()
        self.airflow.schedule_everything()
        Trouble(self).begin()
        self.clock.run(TROUBLE_S, enough=lambda: False)
        self.heal()
        self.clock.run(self.plan.longest_s, enough=self.is_quiet)
        self.promises.check_quiet()

    def end(self) -> None:
        """Let go of everything that still runs."""
        for program in (self.bridge, *(machine.worker for machine in self.machines)):
            program.kill()
            if program.loop is not None:
                program.loop.bury()

    def heal(self) -> None:
        """End all trouble. Whoever is dead has a restart planned already."""
        self.trace("everything heals")
        self.healed = True
        self.airflow.api_is_up = True
        self.bridge.ledger_is_full = self.bridge.log_disk_is_full = False
        for machine in self.machines:
            machine.worker.disk_is_full = False
        for wire in self.network.wires:
            if wire.silent:
                wire.heal()
            if not self.plan.manners.tidy:
                # What a foreign broker loses is made good at the next connection at the latest.
                self.clock.after(self.chance.uniform(5.0, 30.0), wire.cut)
        self.network.settle_down()
        self.outages.look()

    def is_quiet(self) -> bool:
        """Tell whether everything has come to its end."""
        rows = self.airflow.rows
        settled = {"success", "failed"}
        open_rows = [row for row in rows if row.state not in settled and not self.is_stranded(row)]
        held = any(machine.worker.held() or machine.living() for machine in self.machines)
        alive = self.bridge.life.alive and all(scheduler.life.alive for scheduler in self.schedulers)
        if not alive or open_rows or held or self.bridge.ledger.load_live():
            return False
        keepers: list[Bridge | Scheduler | Machine] = [self.bridge, *self.schedulers, *self.machines]
        return not any(keeper.leftovers() for keeper in keepers) and not self.promises.unsaid()

    def is_stranded(self, row: TaskInstance) -> bool:
        """Tell whether a callback's scheduler died before the bridge had the job: Airflow adopts tasks only."""
        known = row.job_id is None or self.bridge.on_disk(row.job_id) is not None
        return row.work.callback and row.job_id in self.promises.orphaned and not known

    # ------------------------------------------------------------ killing

    def is_deadly(self, kind: str) -> bool:
        """Tell whether a program of this kind dies at this step."""
        return not self.healed and self.chance.random() < self.plan.deadly[kind]

    def perhaps_die(self, kind: str, program: Mortal) -> None:
        """Kill a program in the middle of a step, perhaps.

        :raises Killed: it is dead.
        """
        if self.plan.deadly[kind] and self.is_deadly(kind):
            self.die(program)

    def die(self, program: Mortal) -> None:
        """Kill a program from inside; it is started again soon.

        :raises Killed: always.
        """
        self.trace("%s dies in the middle of a step", type(program).__name__)
        self.restart_later(program, self.chance.uniform(0.5, 5.0))
        raise Killed

    def restart_later(self, program: Mortal, delay_s: float) -> None:
        """Kill a program if it lives, and start it again after some time."""
        if not program.life.alive:
            return
        if isinstance(program, Scheduler):
            self.promises.orphaned |= {
                row.job_id for row in self.airflow.rows if row.owner == program.incarnation and row.job_id is not None
            }
        program.kill()
        self.tally[f"{type(program).__name__} killed"] += 1
        self.outages.look()

        def start() -> None:
            if not program.life.alive:
                self.trace("%s starts", type(program).__name__)
                program.start()
                self.outages.look()

        self.clock.after(delay_s, start)

    # ------------------------------------------------------------ what everybody asks

    def count(self) -> int:
        """Return a new number."""
        self._count += 1
        return self._count

    def trace(self, text: str, *args: object) -> None:
        """Write one line of the trace."""
        if self._tell is not None:
            line = f"{self.clock.now:9.3f}  {text % args}"
            self._digest.update(line.encode())
            self._tell(line)

    @property
    def is_traced(self) -> bool:
        """Whether somebody reads the trace."""
        return self._tell is not None

    @property
    def digest(self) -> str:
        """What tells this trace from every other."""
        return self._digest.hexdigest()

    def check_author(self, event: events.Event, changed: Iterable[Job]) -> None:
        """Promise 5: what a worker says changes no job but its own."""
        if isinstance(event, events.ResultReported) and any(job.id == event.result.job_id for job in changed):
            self.promises.wrote(event.worker, event.result.job_id, "the result")

    def add_job(self, spec: JobSpec) -> None:
        """Take note of a job that Airflow has queued."""
        self.jobs[spec.job_id] = spec
        why = self._excused_tasks.get(int(spec.task_id))
        if why is not None:
            self.promises.excuse([spec.job_id], why)

    # ------------------------------------------------------------ what the promises ask

    def excuse_task(self, number: int, why: str) -> None:
        """Let every job of a task end otherwise than its script does."""
        self._excused_tasks[number] = why
        jobs = [job_id for job_id, spec in self.jobs.items() if int(spec.task_id) == number]
        self.promises.excuse(jobs, why)

    def expected(self, job_id: JobId) -> Outcome:
        """Return how a job ends that nothing happens to."""
        spec = self.jobs[job_id]
        work = self.plan.work[int(spec.task_id)]
        if work.has_no_log or (work.exit_code and (not work.pauses or spec.workload["resumed"])):
            return Outcome.FAILED
        return Outcome.SUCCESS

    def was_lost(self, job_id: JobId) -> bool:
        """Tell whether the centre has given a job up without a word of its worker."""
        job = self.bridge.on_disk(job_id)
        return job is not None and job.state is CentralJobState.FINISHED and job.outcome is Outcome.LOST

    def written(self, job: Job) -> list[bytes]:
        """Return what a job's own process wrote on its worker, as far as it counts for its result.

        When losses of power took some of it away: what is left, and what there was before each of them.
        """
        machine = next((machine for machine in self.machines if machine.name == job.worker), None)
        if machine is None or job.spec.log_path is None:
            return [b""]
        bounds = machine.log_bounds.get((job.id, job.fence))
        if bounds is None:
            return [b""]
        path = bounds.folder / job.spec.log_path
        versions = [path.read_bytes()[bounds.begin : bounds.end] if path.exists() else b""]
        return versions + [torn[bounds.begin :] for torn in machine.torn_logs.get(job.spec.log_path, ())]


def simulate(
    seed: int, tell: Callable[[str], None] | None = None, reshape: Callable[[Plan], Plan] | None = None
) -> World:
    """Run one seed.

    :param reshape: changes its plan.
    :raises PromiseBroken: a promise was not kept; the text names the seed.
    """
    plan = plan_of(seed) if reshape is None else reshape(plan_of(seed))
    with tempfile.TemporaryDirectory(prefix="simulation-", dir=_fast_folder()) as folder:
        world = World(plan, folder, tell)
        try:
            with simulated_system(world):
                try:
                    world.run()
                finally:
                    world.end()
        except PromiseBroken as broken:
            how = f"python -m tests.simulation.run --seed {seed} --trace"
            raise PromiseBroken(f"seed {seed} at {world.clock.now:.3f} s: {broken}  (see: {how})") from None
        except Exception as error:
            error.add_note(f"seed {seed} at {world.clock.now:.3f} s: a part failed")
            raise
        return world


def _fast_folder() -> str | None:
    """Return a folder in memory, where there is one: nothing here must survive this process."""
    from pathlib import Path

    shm = Path("/dev/shm")  # noqa: S108 -- the folder made in it is private
    return str(shm) if shm.is_dir() else None
