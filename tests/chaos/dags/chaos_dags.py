"""Tasks that leave evidence of every run of their code: a line in a file on the edge, an XCom, numbered log lines."""

from __future__ import annotations

import hashlib
import json
import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException


def leave_evidence() -> tuple[dict[str, Any], str]:
    """Append this try's one line to the file of this machine; return the run's conf and the task's own name."""
    context = get_current_context()
    instance = context["ti"]
    line = {
        "run": instance.run_id,
        "task": instance.task_id,
        "map": instance.map_index,
        "try": instance.try_number,
        "pid": os.getpid(),
    }
    # One write in append mode: lines of tasks that run at the same time are never mixed.
    descriptor = os.open(Path(os.environ["AIRFLOW_HOME"]) / "evidence.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, (json.dumps(line) + "\n").encode())
    finally:
        os.close(descriptor)
    return dict(context["dag_run"].conf or {}), f"{instance.run_id}/{instance.task_id}/{instance.map_index}"


def work(name: str, seconds: float) -> None:
    """Take ``seconds`` and number the log's lines, five a second."""
    lines = max(1, round(seconds * 5))
    for number in range(lines):
        print(f"line {number} of {lines} by {name}")
        time.sleep(seconds / lines)


def word_of(run_id: str, number: int) -> str:
    """Return what part ``number`` of a run hands on."""
    return hashlib.sha256(f"{run_id}/{number}".encode()).hexdigest()


@dag(
    schedule=None,
    max_active_runs=8,
    default_args={"retries": 2, "retry_delay": timedelta(seconds=1)},
)
def chaos_lines() -> None:
    """Plan, ``conf["parts"]`` parts of ``conf["seconds"]`` seconds side by side, and a task that checks all."""

    @task
    def plan() -> list[int]:
        conf, name = leave_evidence()
        work(name, 0.5)
        return list(range(conf["parts"]))

    @task
    def part(number: int) -> dict[str, Any]:
        conf, name = leave_evidence()
        work(name, conf["seconds"])
        return {"number": number, "word": word_of(get_current_context()["run_id"], number)}

    @task
    def check(parts: list[dict[str, Any]]) -> int:
        conf, name = leave_evidence()
        work(name, 0.5)
        run_id = get_current_context()["run_id"]
        expected = [{"number": number, "word": word_of(run_id, number)} for number in range(conf["parts"])]
        if list(parts) != expected:
            # A retry would hide it.
            raise AirflowFailException(f"expected {expected}, pulled {list(parts)}")
        return len(expected)

    check(part.expand(number=plan()))


chaos_lines()
