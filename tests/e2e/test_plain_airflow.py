"""The harness itself, on Airflow alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.quickstart.stack import Stack

pytestmark = pytest.mark.airflow


def test_airflow_alone_runs_a_dag_and_nothing_is_left_over(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(executor="LocalExecutor")
    stack.wait_for_dag("e2e_plain")

    run_id = stack.trigger("e2e_plain")

    assert stack.wait_run("e2e_plain", run_id) == "success"
    states = {each["task_id"]: each["state"] for each in stack.task_instances("e2e_plain", run_id)}
    assert states == {"make_number": "success", "double": "success"}
    assert set(stack.parts) == {"api-server", "scheduler", "dag-processor", "triggerer"}
    stack.stop()
    assert stack.left_over() == []
