"""Tasks that leave a trace of every run of their code: a line in a file on the edge, numbered log lines, an XCom."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from airflow.sdk import dag, get_current_context, task


@dag(schedule=None, max_active_tasks=64)
def e2e_lines() -> None:
    """Run ``conf["tasks"]`` tasks of ``conf["seconds"]`` seconds; each writes to ``conf["folder"]`` once."""

    @task
    def plan() -> list[int]:
        return list(range(get_current_context()["dag_run"].conf["tasks"]))

    @task
    def trace(number: int) -> int:
        conf: dict[str, Any] = get_current_context()["dag_run"].conf
        with (Path(conf["folder"]) / f"{number}.txt").open("a") as file:
            file.write(f"pid {os.getpid()}\n")
        for line in range(int(conf["seconds"] * 2)):
            print(f"task {number} line {line}")
            time.sleep(0.5)
        return number

    trace.expand(number=plan())


e2e_lines()
