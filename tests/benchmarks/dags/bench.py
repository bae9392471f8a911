"""Tasks of the benchmarks: none does any work of its own."""

from __future__ import annotations

import time
from pathlib import Path

from airflow.sdk import dag, get_current_context, task


@dag(schedule=None)
def bench_noop() -> None:
    """Do nothing, once."""

    @task
    def nothing() -> None:
        pass

    nothing()


@dag(schedule=None)
def bench_mapped() -> None:
    """Do nothing, a hundred times."""

    @task
    def nothing(number: int) -> None:
        del number

    nothing.expand(number=list(range(100)))


@dag(schedule=None)
def bench_hold() -> None:
    """Hold sixteen slots until the file exists that the run's configuration names."""

    @task
    def hold(number: int) -> None:
        del number
        release = Path(get_current_context()["dag_run"].conf["release"])
        while not release.exists():
            time.sleep(0.2)

    hold.expand(number=list(range(16)))


@dag(schedule=None)
def bench_first_line() -> None:
    """Return the time at which the first line of user code runs."""

    @task
    def first_line() -> float:
        return time.time()

    first_line()


@dag(schedule=None)
def bench_live_lines() -> None:
    """Print the time, fifty times in five seconds."""

    @task
    def talk() -> None:
        for _ in range(50):
            print(f"now {time.time():.6f}", flush=True)
            time.sleep(0.1)

    talk()


bench_noop()
bench_mapped()
bench_hold()
bench_first_line()
bench_live_lines()
