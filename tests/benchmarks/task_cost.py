"""What one task costs on its worker: CPU by process, time by stage, memory idle and with every slot busy.

A real worker with its launcher, supervisors and tasks; only the bridge answers from memory, at once. ``--against``
names another checkout, whose worker is measured in turn with this one's, so that both meet the same disturbances.
``--dag-imports`` compares a worker that imports those modules ahead (preload_imports) with one that does not.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.worker.app import Worker
from edge_mqtt.worker.config import StateDir, WorkerSettings
from edge_mqtt.worker.core.drain import StopSignal
from edge_mqtt.worker.launcher.spawned import SpawnedLauncher
from edge_mqtt.worker.link import WorkerAddress
from edge_mqtt.worker.runs.launcher_client import LauncherClient
from tests.benchmarks.task_centre import NAME, PATIENCE_S, TOPICS, Centre

TREE = Path(__file__).parents[2]
DAGS = Path(__file__).parent / "task_dags"
SLOTS = 16
#: Bytes in a megabyte as memory is counted here.
MB = 1024 * 1024


#: The stages of a task, from the order to its result, by the clock and by the CPU of its process.
WALLS = ("to_run_call", "to_parse", "parse", "to_execute", "to_exit", "to_result")
CPUS = ("cpu_to_parse", "cpu_parse", "cpu_to_execute", "cpu_to_exit")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one round has measured; seconds and megabytes."""

    supervisor_cpu: float
    task_cpu: float
    launcher_cpu: float
    worker_cpu: float
    #: Order to the run call; run call to the Dag file; its parsing; to the first line of user code; to the exit.
    to_run_call: float
    to_parse: float
    parse: float
    to_execute: float
    to_exit: float
    to_result: float
    #: CPU of the task's process until then.
    cpu_to_parse: float
    cpu_parse: float
    cpu_to_execute: float
    cpu_to_exit: float
    #: CPU of a task, all processes, and tasks a second, with every slot busy.
    busy_cpu: float
    busy_rate: float
    idle_pss: float
    busy_pss: float
    launcher_private: float


# ---------------------------------------------------------------- what the kernel says


@dataclass(frozen=True)
class Cpu:
    """Seconds of CPU so far: the launcher's own, that of the supervisors and tasks that have ended, the worker's."""

    launcher: float
    children: float
    worker: float

    @classmethod
    def now(cls, launcher: int) -> Cpu:
        """Look."""
        times = psutil.Process(launcher).cpu_times()
        return cls(times.user + times.system, times.children_user + times.children_system, time.process_time())

    def since(self, before: Cpu) -> Cpu:
        """Return what was used since."""
        used = (getattr(self, name) - getattr(before, name) for name in ("launcher", "children", "worker"))
        return Cpu(*used)


def memory_mb(pid: int, kinds: tuple[str, ...]) -> float:
    """Return a process's memory of these kinds of /proc/PID/smaps_rollup."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) for line in lines if line.split(":")[0] in kinds) * 1024 / MB


def pss_mb(launcher: int) -> float:
    """Return the proportional memory of the launcher and everything below it."""
    family = [psutil.Process(launcher), *psutil.Process(launcher).children(recursive=True)]
    return sum(memory_mb(process.pid, ("Pss",)) for process in family)


# ---------------------------------------------------------------- one round


async def measure(process: SpawnedLauncher, folder: Path, tasks: int) -> Figures:
    """Run a worker: tasks in turn, then with every slot busy, then some that hold their slots."""
    pid = process.process.pid
    settings = WorkerSettings(
        bridge_url="wss://bridge.test/mqtt",
        certs=folder,
        queues=("default",),
        state=StateDir(path=folder / "state"),
        base_log_folder=folder / "home" / "logs",
        concurrency=SLOTS,
    )
    lock = settings.state.prepare()
    launcher = LauncherClient(process)
    await launcher.wait_ready()
    broker = MemoryBroker()
    centre = Centre(broker)
    address = WorkerAddress(name=NAME, incarnation=uuid.uuid4().hex, topics=TOPICS)
    transport = MemoryTransport(broker, f"worker:{NAME}", address.subscriptions, address.will)
    worker = Worker(settings, address, transport, launcher)
    running = asyncio.create_task(worker.run())
    try:
        await centre.until(lambda: centre.welcomed)
        await centre.succeed([centre.assign("nothing")])  # The first one warms everything up.
        idle_pss = pss_mb(pid)
        private = memory_mb(pid, ("Private_Clean", "Private_Dirty"))
        alone = await in_turn(centre, folder, pid, tasks)
        busy = await all_at_once(centre, pid, 3 * SLOTS)
        busy_pss = await holding(centre, folder, pid)
        return Figures(**alone, **busy, idle_pss=idle_pss, busy_pss=busy_pss, launcher_private=private)
    finally:
        worker.request_stop(StopSignal.INTERRUPT)
        await asyncio.wait_for(running, PATIENCE_S)
        os.close(lock)


def told(folder: Path) -> list[dict[str, Any]]:
    """Return what the tasks have said."""
    return [json.loads(line) for line in (folder / "marks").read_text(encoding="utf-8").splitlines()]


async def in_turn(centre: Centre, folder: Path, launcher: int, tasks: int) -> dict[str, float]:
    """Run tasks one after another; return CPU by process and the medians of the stages."""
    before, said = Cpu.now(launcher), len(told(folder))
    jobs = []
    for _ in range(tasks):
        jobs.append(centre.assign("nothing"))
        await centre.succeed(jobs[-1:])
    await asyncio.sleep(0.1)  # Until the last one is buried, and counted.
    used = Cpu.now(launcher).since(before)
    reports = told(folder)[said:]
    task_cpu = statistics.fmean(report["stages"]["exit"][1] for report in reports)
    walls, cpus = [], []
    for job, report in zip(jobs, reports, strict=True):
        stages = [report["stages"][name] for name in ("parse", "parsed", "execute", "exit")]
        ends = [centre.assigned[job], centre.run_calls[job], *(at for at, _ in stages), centre.results[job][0]]
        walls.append([later - earlier for earlier, later in pairwise(ends)])
        steps = [0.0, *(cpu for _, cpu in stages)]
        cpus.append([later - earlier for earlier, later in pairwise(steps)])
    wall = {name: statistics.median(each) for name, each in zip(WALLS, zip(*walls, strict=True), strict=True)}
    cpu = {name: statistics.fmean(each) for name, each in zip(CPUS, zip(*cpus, strict=True), strict=True)}
    return {
        "supervisor_cpu": used.children / tasks - task_cpu,
        "task_cpu": task_cpu,
        "launcher_cpu": used.launcher / tasks,
        "worker_cpu": used.worker / tasks,
        **wall,
        **cpu,
    }


async def all_at_once(centre: Centre, launcher: int, tasks: int) -> dict[str, float]:
    """Hand over many tasks at once; return CPU for one and the rate."""
    before, began = Cpu.now(launcher), time.monotonic()
    await centre.succeed([centre.assign("nothing") for _ in range(tasks)])
    seconds = time.monotonic() - began
    await asyncio.sleep(0.1)
    used = Cpu.now(launcher).since(before)
    return {"busy_cpu": (used.launcher + used.children + used.worker) / tasks, "busy_rate": tasks / seconds}


async def holding(centre: Centre, folder: Path, launcher: int) -> float:
    """Return the memory of launcher, supervisors and tasks while every slot runs user code."""
    hold = folder / "hold"
    jobs = [centre.assign("hold") for _ in range(SLOTS)]
    async with asyncio.timeout(PATIENCE_S):
        while len(list(hold.glob("*.held"))) < SLOTS:  # noqa: ASYNC110 -- they are other processes
            await asyncio.sleep(0.05)
    memory = pss_mb(launcher)
    (hold / "over").touch()
    await centre.succeed(jobs)
    return memory


def one_round(tasks: int, imports: str = "", *, ahead: bool = False) -> tuple[Figures, list[str]]:
    """Measure in a folder of its own; return the figures and the modules that the tasks ended with."""
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as made:
        folder = Path(made)
        (folder / "hold").mkdir()
        os.environ.update(
            AIRFLOW_HOME=str(folder / "home"),
            AIRFLOW__CORE__DAGS_FOLDER=str(DAGS),
            TASK_COST_MARKS=str(folder / "marks"),
            TASK_COST_HOLD=str(folder / "hold"),
            TASK_COST_IMPORTS=imports,
            AIRFLOW__EDGE_MQTT__PRELOAD_IMPORTS=imports if ahead else "",
        )
        process = SpawnedLauncher()
        figures = asyncio.run(measure(process, folder, tasks))
        return figures, told(folder)[-1]["modules"]


# ---------------------------------------------------------------- several rounds, side by side


def round_of(tree: Path, tasks: int, *more: str) -> dict[str, float]:
    """Measure the worker of a checkout in a process of its own.

    :raises CalledProcessError: it failed.
    """
    command = [sys.executable, "-m", "tests.benchmarks.task_cost", "--round", "--tasks", str(tasks), *more]
    environment = {**os.environ, "PYTHONPATH": str(tree / "src")}
    done = subprocess.run(command, cwd=TREE, env=environment, stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def late_modules() -> list[str]:
    """Return what a task had to import by itself, because the launcher had not."""
    code = (
        "import sys; from edge_mqtt.worker.launcher.preload import preload_airflow; preload_airflow(); "
        "print('\\n'.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    loaded = set(done.stdout.split())
    return [name for name in one_round(1)[1] if name not in loaded]


def show(console: Console, rounds: dict[str, list[dict[str, float]]]) -> None:
    """Print the medians of every tree, and how the first compares with each."""
    table = Table(title=f"one task on its worker, {platform.machine()}, {os.cpu_count()} cores")
    table.add_column("")
    for name in rounds:
        table.add_column(name, justify="right")
    table.add_column("ratio", justify="right")
    middle = {
        name: {key: statistics.median(each[key] for each in figures) for key in figures[0]}
        for name, figures in rounds.items()
    }
    for values in middle.values():
        parts = ("supervisor_cpu", "task_cpu", "launcher_cpu", "worker_cpu")
        values["cpu"] = sum(values[part] for part in parts)
        values["wall"] = sum(values[part] for part in WALLS)
    for key in middle[next(iter(middle))]:
        row = [each[key] for each in middle.values()]
        plain = key.endswith(("pss", "private", "rate"))
        texts = (f"{value:.1f}" if plain else f"{value * 1000:.1f} ms" for value in row)
        table.add_row(key, *texts, f"{row[0] / row[-1]:.2f}" if len(row) > 1 else "")
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20, help="tasks in turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each (default: %(default)s)")
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--imports", action="store_true", help="list what a task imports by itself, and end")
    parser.add_argument("--dag-imports", default="", metavar="A,B", help="modules that the Dag is to import")
    parser.add_argument("--ahead", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--round", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.round:
        print(json.dumps(asdict(one_round(options.tasks, options.dag_imports, ahead=options.ahead)[0])))
        return
    if options.imports:
        print("\n".join(late_modules()))
        return
    kinds: dict[str, tuple[Path, tuple[str, ...]]] = {"this": (TREE, ())}
    if options.against:
        kinds["other"] = (options.against.absolute(), ())
    if options.dag_imports:
        imports = ("--dag-imports", options.dag_imports)
        kinds = {"ahead": (TREE, (*imports, "--ahead")), "in each task": (TREE, imports)}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, (tree, more) in kinds.items():
            rounds[name].append(round_of(tree, options.tasks, *more))
    show(Console(), rounds)


if __name__ == "__main__":
    main()
