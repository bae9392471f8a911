"""Two tasks that hand a number on."""

from __future__ import annotations

import pendulum
from airflow.sdk import dag, task


@dag(schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC"), catchup=False)
def e2e_plain() -> None:
    @task
    def make_number() -> int:
        return 20

    @task
    def double(number: int) -> int:
        print(f"twice {number} is {2 * number}")
        return 2 * number

    double(make_number())


e2e_plain()
