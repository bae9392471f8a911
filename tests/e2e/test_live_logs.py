"""Lines of a running task are read at the centre while it runs: in the UI and with edge-logs."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploy.quickstart.stack import Stack
from tests.support.edge_logs_command import edge_logs_command
from tests.support.run_checks import assert_logs_equal

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

DAG = "e2e_lines"


def start_run(stack: Stack, folder: Path, *, tasks: int, seconds: int) -> str:
    run_id = stack.trigger(DAG, {"tasks": tasks, "seconds": seconds, "folder": str(folder)})
    stack.wait_until(lambda: len(list(folder.iterdir())) == tasks, "the tasks to run", timeout_s=60)
    return run_id


def ui_log(stack: Stack, run_id: str) -> list[dict[str, Any]]:
    """Return what the UI is given for the log of the first mapped task."""
    path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/trace/logs/1"
    content: list[dict[str, Any]] = stack.rest("GET", path, params={"map_index": 0})["content"]
    return content


def test_the_ui_shows_a_running_task_s_lines_without_asking_the_worker_s_port(stack: Stack, tmp_path: Path) -> None:
    run_id = start_run(stack, tmp_path, tasks=1, seconds=15)
    stack.wait_until(lambda: "task 0 line 3" in json.dumps(ui_log(stack, run_id)), "line 3 in the UI")
    shown = json.dumps(ui_log(stack, run_id))
    running = next(i for i in stack.task_instances(DAG, run_id) if i["task_id"] == "trace")
    assert running["state"] == "running"
    assert ":8793" not in shown
    assert "Could not read served logs" not in shown
    assert "edge worker" in shown
    assert shown.count("task 0 line 3") == 1
    assert stack.wait_run(DAG, run_id) == "success"


def test_edge_logs_follows_a_run_to_its_end_across_a_restart_of_the_bridge(stack: Stack, tmp_path: Path) -> None:
    run_id = start_run(stack, tmp_path, tasks=2, seconds=15)
    command = edge_logs_command(stack, DAG, "trace", "--run-id", run_id, "-f", "--output", "json")
    with subprocess.Popen(command, env=stack.environment(stack.directory), stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        lines = [json.loads(tail.stdout.readline())]
        stack.restart("bridge")
        lines += [json.loads(line) for line in tail.stdout]
        assert tail.wait(60) == 0
    assert stack.run_state(DAG, run_id) == "success"
    for number in range(2):
        printed = [line["event"] for line in lines if line["map_index"] == number]
        assert [e for e in printed if e.startswith("task ")] == [f"task {number} line {i}" for i in range(30)]
    assert assert_logs_equal(stack, DAG, run_id) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no_such_dag"], "no such Dag"),
        ([DAG, "--run-id", "no_such_run"], "no such run"),
        ([DAG, "no_such_task"], "no_such_task"),
    ],
)
def test_edge_logs_says_in_one_line_what_there_is_not(
    stack: Stack, tmp_path: Path, arguments: list[str], says: str
) -> None:
    run_id = start_run(stack, tmp_path, tasks=1, seconds=1)
    assert stack.wait_run(DAG, run_id) == "success"
    done = subprocess.run(
        edge_logs_command(stack, *arguments),
        env=stack.environment(stack.directory),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
