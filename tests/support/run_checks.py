"""What must hold after any run, however disturbed."""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from pathlib import Path
from typing import Any

import psutil

from deploy.quickstart.errors import WaitedTooLong
from deploy.quickstart.stack import Stack


def log_path(instance: dict[str, Any], try_number: int) -> Path:
    """Return where Airflow keeps the log of a try, below base_log_folder."""
    parts = [f"dag_id={instance['dag_id']}", f"run_id={instance['dag_run_id']}", f"task_id={instance['task_id']}"]
    if instance["map_index"] >= 0:
        parts.append(f"map_index={instance['map_index']}")
    return Path(*parts, f"attempt={try_number}.log")


def edge_logs(stack: Stack, dag_id: str, run_id: str) -> dict[Path, dict[str, bytes]]:
    """Return every task log of a run that a worker has: path -> worker -> content."""
    found: dict[Path, dict[str, bytes]] = {}
    for worker in stack.workers:
        base = stack.worker_home(worker.name) / "logs"
        for file in (base / f"dag_id={dag_id}" / f"run_id={run_id}").rglob("*.log"):
            found.setdefault(file.relative_to(base), {})[worker.name] = file.read_bytes()
    return found


def assert_logs_equal(stack: Stack, dag_id: str, run_id: str) -> int:
    """Wait until every log at the centre equals the worker's, byte for byte; return how many there are."""
    central = stack.central_home / "logs"

    def differing() -> list[str]:
        wrong = []
        for path, copies in edge_logs(stack, dag_id, run_id).items():
            content = (central / path).read_bytes() if (central / path).exists() else b""
            if [content] != list(copies.values()):
                wrong.append(
                    f"{path}: {len(content)} bytes at the centre, {[len(c) for c in copies.values()]} on the edge"
                )
        return wrong

    with contextlib.suppress(WaitedTooLong):
        stack.wait_until(lambda: not differing(), f"equal logs of {dag_id}", timeout_s=30)
    assert differing() == []
    logs = edge_logs(stack, dag_id, run_id)
    assert all(content for copies in logs.values() for content in copies.values())
    return len(logs)


def final_events(stack: Stack, run_id: str, task_id: str) -> Counter[tuple[int, int]]:
    """Return how many final events Airflow has had of each try of a task: (map index, try number) -> events."""
    key = rf"task_id='{task_id}', run_id='{re.escape(run_id)}', try_number=(\d+), map_index=(-?\d+)"
    found = re.findall(rf"Received executor event with state (?:success|failed) .*{key}", stack.log_of("scheduler"))
    return Counter((int(map_index), int(try_number)) for try_number, map_index in found)


def assert_one_final_event(stack: Stack, run_id: str, task_id: str, tries: set[tuple[int, int]]) -> None:
    """Assert that Airflow has had one final event of each of these (map index, try number), and of no other.

    An event may come after the end of its run, which the task itself has told.
    """
    with contextlib.suppress(WaitedTooLong):
        stack.wait_until(lambda: set(final_events(stack, run_id, task_id)) >= tries, "the final events", timeout_s=60)
    assert final_events(stack, run_id, task_id) == dict.fromkeys(tries, 1)


def assert_ran_once(folder: Path, tasks: int) -> None:
    """Assert that each task's code was begun exactly once."""
    traces = {int(file.stem): file.read_text().splitlines() for file in folder.iterdir()}
    assert sorted(traces) == list(range(tasks))
    assert {number: lines for number, lines in traces.items() if len(lines) != 1} == {}


def process_tree(pid: int) -> list[psutil.Process]:
    """Return a process and all that descend from it."""
    root = psutil.Process(pid)
    return [root, *root.children(recursive=True)]
