"""Tasks that say when they run."""

from __future__ import annotations

import time

from airflow.sdk import dag, task


@dag(schedule=None)
def bench_first_line() -> None:
    """Return the time at which the first line of user code runs."""

    @task
    def first_line() -> float:
        return time.time()

    first_line()


@dag(schedule=None)
def bench_live_lines() -> None:
    """Print the time, a hundred times."""

    @task
    def talk() -> None:
        for _ in range(100):
            print(f"now {time.time():.6f}", flush=True)
            time.sleep(0.1)

    talk()


bench_first_line()
bench_live_lines()
