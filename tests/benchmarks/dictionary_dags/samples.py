"""Tasks whose calls and logs are the dictionary's samples: what most tasks do, nothing that is one user's own."""

from __future__ import annotations

import logging
import sys

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import Variable, dag, task


@dag(schedule=None)
def dict_sample() -> None:
    """Do what tasks do."""

    @task
    def nothing() -> None:
        pass

    @task
    def words() -> dict[str, object]:
        log = logging.getLogger("airflow.task")
        for number in range(5):
            print(f"step {number} done")
            log.info("read %d of %d rows", number, 5)
            log.warning("slow: %.2f s", number * 0.37)
        print("to stderr", file=sys.stderr)
        return {"rows": 5, "path": "out.csv", "ok": True}

    @task
    def pulls(found: dict[str, object]) -> int:
        print(found, Variable.get("dict_variable", default="none"))
        return len(found)

    @task
    def fails() -> None:
        raise ValueError("the value is out of range")

    @task
    def mapped(number: int) -> int:
        return number * 2

    nothing()
    pulls(words())  # type: ignore[arg-type]  # what a task returns stands for its value here
    fails()
    mapped.expand(number=[1, 2, 3])
    BashOperator(task_id="shell", bash_command="echo begin; echo end; exit 0")


dict_sample()
