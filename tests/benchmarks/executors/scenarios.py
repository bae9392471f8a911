"""What is measured on a system that runs: each scenario returns raw figures, which are judged elsewhere."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any, Final

from tests.benchmarks.executors import live_lines
from tests.benchmarks.executors.systems import CONCURRENCY, System

#: Raw figures, ready for JSON.
Figures = dict[str, Any]

NOOP: Final = "bench_noop"
MAPPED: Final = "bench_mapped"
HOLD: Final = "bench_hold"
#: Seconds of a pause before a task at most: edge3's worker asks for work every five, and no moment may be favoured.
_POLL_PERIOD_S: Final = 5.0
#: Seconds after a run's end that still count for it: log pushes, acknowledgements.
_AFTERMATH_S: Final = 1.0
#: Seconds between two looks into the database.
_LOOK_S: Final = 0.05
#: Seconds that a run may take: several times as long as the slowest executor needs.
_RUN_S: Final = 300.0
_ENDED: Final = ("success", "failed")

_TIMES: Final = """
    SELECT state, CAST(EXTRACT(epoch FROM queued_dttm) AS float) AS queued,
           CAST(EXTRACT(epoch FROM start_date) AS float) AS start, CAST(EXTRACT(epoch FROM end_date) AS float) AS end
    FROM task_instance WHERE dag_id = :dag_id AND run_id = :run_id"""


def wait_run(system: System, dag_id: str, run_id: str) -> None:
    """Return when a run has succeeded.

    :raises RuntimeError: it failed.
    :raises WaitedTooLong: it goes on.
    """
    statement = "SELECT state FROM dag_run WHERE dag_id = :dag_id AND run_id = :run_id"

    def state() -> str:
        return str(system.query(statement, dag_id=dag_id, run_id=run_id)[0]["state"])

    system.stack.wait_until(lambda: state() in _ENDED, f"{run_id} of {dag_id}", timeout_s=_RUN_S, poll_s=_LOOK_S)
    if state() != "success":
        raise RuntimeError(f"{system.name}: {run_id} of {dag_id} failed")


def warm_up(system: System) -> None:
    """Run one task that is not measured: first imports, and connections that a frozen system has lost."""
    wait_run(system, NOOP, system.stack.trigger(NOOP))


def one_task(system: System, chance: random.Random) -> Figures:
    """Run one task on an idle worker."""
    time.sleep(chance.uniform(0.0, _POLL_PERIOD_S))
    traffic, cpu = system.traffic(), system.worker_cpu_s()
    run_id = system.stack.trigger(NOOP)
    wait_run(system, NOOP, run_id)
    time.sleep(_AFTERMATH_S)
    (times,) = system.query(_TIMES, dag_id=NOOP, run_id=run_id)
    return {
        "queued_to_start_s": times["start"] - times["queued"],
        "start_to_end_s": times["end"] - times["start"],
        "cpu_s": system.worker_cpu_s() - cpu,
        **asdict(system.traffic() - traffic),
    }


def many_tasks(system: System) -> Figures:
    """Run a hundred mapped tasks."""
    traffic, cpu = system.traffic(), system.worker_cpu_s()
    run_id = system.stack.trigger(MAPPED)
    wait_run(system, MAPPED, run_id)
    time.sleep(_AFTERMATH_S)
    times = system.query(_TIMES, dag_id=MAPPED, run_id=run_id)
    seconds = max(task["end"] for task in times) - min(task["queued"] for task in times)
    return {
        "tasks": len(times),
        "tasks_per_s": len(times) / seconds,
        "cpu_s": (system.worker_cpu_s() - cpu) / len(times),
        "slowest_s": max(task["end"] - task["start"] for task in times),
        **asdict(system.traffic() - traffic),
    }


def full_worker(system: System) -> Figures:
    """Hold all slots at once and look at the worker's memory."""
    release = system.directory / "release"
    run_id = system.stack.trigger(HOLD, {"release": str(release)})

    def held() -> bool:
        times = system.query(_TIMES, dag_id=HOLD, run_id=run_id)
        return [task["state"] for task in times].count("running") == CONCURRENCY

    try:
        system.stack.wait_until(held, f"{CONCURRENCY} tasks to run", timeout_s=_RUN_S)
        time.sleep(_AFTERMATH_S)
        memory, processes = system.worker_pss(), len(system.worker_processes())
    finally:
        # Whatever happens, the tasks must not hold the slots until the end of all days.
        release.touch()
    wait_run(system, HOLD, run_id)
    return {"pss_bytes": memory, "processes": processes}


def idle_from_now(system: System) -> Callable[[], Figures]:
    """Return what tells, when called, what the system has used since now."""
    traffic, cpu, since = system.traffic(), system.worker_cpu_s(), time.monotonic()

    def used() -> Figures:
        return {
            "seconds": time.monotonic() - since,
            "cpu_s": system.worker_cpu_s() - cpu,
            "pss_bytes": system.worker_pss(),
            **asdict(system.traffic() - traffic),
        }

    return used


def printed_lines(system: System) -> dict[str, list[float]]:
    """Run a talkative task; return the delays of its lines, in seconds, by kind of reader."""
    return live_lines.measure(
        system.stack,
        with_edge_logs=system.stack.has_edge,
        wait_run=lambda dag_id, run_id: wait_run(system, dag_id, run_id),
    )


@contextlib.contextmanager
def far_away(system: System, *, rtt_s: float, bytes_per_s: float) -> Iterator[None]:
    """Make every link of the worker long and thin while the block runs."""
    try:
        for link in system.links.values():
            link.make_wan(rtt_s=rtt_s, bytes_per_s=bytes_per_s)
        warm_up(system)
        yield
    finally:
        for link in system.links.values():
            link.make_wan(rtt_s=0.0, bytes_per_s=None)
