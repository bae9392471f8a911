"""Two of Airflow's executors side by side: tasks choose theirs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.quickstart.stack import EDGE_EXECUTOR, Stack, WorkerSpec

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

DAGS = Path(__file__).parent / "dags_two_executors"


def test_tasks_run_where_their_executor_says(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(dags=DAGS, executor=f"LocalExecutor,{EDGE_EXECUTOR}", workers=[WorkerSpec(name="edge-1")])
    stack.wait_for_dag("e2e_executors")
    run_id = stack.trigger("e2e_executors")
    assert stack.wait_run("e2e_executors", run_id) == "success"
    entries = f"/dags/e2e_executors/dagRuns/{run_id}/taskInstances/{{}}/xcomEntries/return_value"
    homes = {task: stack.rest("GET", entries.format(task))["value"] for task in ("at_the_centre", "on_the_edge")}
    assert homes == {
        "at_the_centre": str(stack.central_home),
        "on_the_edge": str(stack.worker_home("edge-1")),
    }
    stack.stop()
    assert stack.left_over() == []
