"""What a small machine at the edge does: reads something, works on it in two tasks at once, tells the result."""

from __future__ import annotations

import random
import time

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import dag, task

READINGS = 2_000


@dag(schedule=None, catchup=False)
def board() -> None:
    @task
    def read() -> list[dict[str, float]]:
        source = random.Random(7)
        return [{"at": float(second), "celsius": source.gauss(20, 2)} for second in range(READINGS)]

    @task
    def smooth(readings: list[dict[str, float]]) -> float:
        total = 0.0
        for number, reading in enumerate(readings):
            total += reading["celsius"]
            if number % 10 == 0:
                print(f"reading {number}: {reading}")
        time.sleep(3)
        return total / len(readings)

    @task
    def tell(mean: float) -> None:
        print(f"mean {mean:.2f}")

    readings = read()
    shell = BashOperator(
        task_id="shell", bash_command="for n in $(seq 200); do echo line $n; done; sleep 3; echo '{\"lines\": 200}'"
    )
    readings >> shell
    tell(smooth(readings))


board()
