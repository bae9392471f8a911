"""A worker with two tasks at once on boards of several sizes, in a whole system whose centre has no limit."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from deploy.quickstart.process import stop_services
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.benchmarks.weight.board import Board, forget_files
from tests.benchmarks.weight.installs import Install
from tests.benchmarks.weight.proc import family, proportional_mb

DAGS = Path(__file__).parent / "dags"
DAG_ID = "board"
WORKER = "board"
PART = f"worker-{WORKER}"
#: Runs of the Dag at once; each has two tasks that can run side by side, and there are two slots.
RUNS = 3
LOOK_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Round:
    """What happened on one board."""

    memory_mb: float
    states: list[str]
    start_s: float
    runs_s: float
    idle_mb: float
    #: By shares (PSS), at the highest look.
    busy_mb: float
    most_tasks: int
    data_peak_mb: float
    peak_mb: float
    kills: int


def run_on_board(console: Console, folder: Path, worker: Install, sizes: Sequence[float]) -> None:
    """Print how a worker does on boards with so many megabytes; 0 is no limit."""
    with Stack(folder / "s", dags=DAGS, workers=[WorkerSpec(name=WORKER, concurrency=2)]) as stack:
        stack.wait_for_dag(DAG_ID)
        stack.services[PART].argv[0] = str(worker.python.with_name("edge-worker"))
        rounds = [_round(stack, worker, size) for size in sizes]
    table = Table(title=f"edge-worker --concurrency 2, {RUNS} runs of a Dag whose tasks run two at a time")
    columns = ("limit, MB", "runs", "start, s", "runs, s", "idle PSS, MB", "busy PSS, MB", "tasks at once")
    for column in (*columns, "data at most, MB", "with files, MB", "killed"):
        table.add_column(column, justify="right")
    for each in rounds:
        table.add_row(
            f"{each.memory_mb:g}" if each.memory_mb else "none",
            ", ".join(each.states),
            *(f"{value:.1f}" for value in (each.start_s, each.runs_s, each.idle_mb, each.busy_mb)),
            str(each.most_tasks),
            *(f"{value:.0f}" for value in (each.data_peak_mb, each.peak_mb)),
            str(each.kills),
        )
    console.print(table)


def _round(stack: Stack, worker: Install, memory_mb: float) -> Round:
    part = stack.services[PART]
    stop_services([part])
    forget_files(worker.folder)
    with ExitStack() as leaving:
        board = leaving.enter_context(Board(WORKER, memory_mb=memory_mb or 1024 * 1024))
        leaving.callback(stop_services, [part])
        with board.inside():
            part.start()
        stack.wait_until(part.check, "the worker", timeout_s=120.0)
        idle_mb = proportional_mb(family(part.pid))
        began = time.monotonic()
        run_ids = [stack.trigger(DAG_ID) for _ in range(RUNS)]
        busy_mb, most_tasks = 0.0, 0
        while any(stack.run_state(DAG_ID, run_id) not in ("success", "failed") for run_id in run_ids):
            busy_mb = max(busy_mb, proportional_mb(family(part.pid)))
            most_tasks = max(most_tasks, _tasks(part.pid))
            time.sleep(LOOK_S)
        return Round(
            memory_mb=memory_mb,
            states=[stack.run_state(DAG_ID, run_id) for run_id in run_ids],
            start_s=part.took_s or 0.0,
            runs_s=time.monotonic() - began,
            idle_mb=idle_mb,
            busy_mb=busy_mb,
            most_tasks=most_tasks,
            data_peak_mb=board.data_peak_mb,
            peak_mb=board.peak_mb,
            kills=board.kills,
        )


def _tasks(worker: int) -> int:
    """Return the number of supervisors that the launcher of ``worker`` has."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return sum(len(launcher.children()) for launcher in psutil.Process(worker).children())
    return 0
