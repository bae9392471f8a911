"""A task that can have no log file on its worker fails at once with the reason, and no other waits for it."""

from __future__ import annotations

import errno
import os

import pytest

from deploy.quickstart.stack import Stack
from tests.e2e.dags.e2e_unusable_logs import LONG, LOOP
from tests.support.run_checks import assert_one_final_event, log_path

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(240)]

DAG = "e2e_unusable_logs"
TOO_LONG, IN_A_CIRCLE = os.strerror(errno.ENAMETOOLONG), os.strerror(errno.ELOOP)


def test_tasks_that_can_have_no_log_file_fail_at_once_with_the_reason_and_hold_up_no_other(stack: Stack) -> None:
    run_id = stack.trigger(DAG)
    # Airflow would take them back after ten minutes.
    assert stack.wait_run(DAG, run_id, timeout_s=60) == "failed"
    instances = {instance["task_id"]: instance for instance in stack.task_instances(DAG, run_id)}
    assert {task_id: instance["state"] for task_id, instance in instances.items()} == {
        **dict.fromkeys((*LONG, LOOP), "failed"),
        **dict.fromkeys(("first", "neighbour"), "success"),
    }
    for task_id, reason in (*((task_id, TOO_LONG) for task_id in LONG), (LOOP, IN_A_CIRCLE)):
        assert_one_final_event(stack, run_id, task_id, {(-1, 1)})
        assert reason in said_of(stack, run_id, task_id)
    refused = [line for line in stack.log_of("worker-edge-1").splitlines() if "job refused" in line]
    assert len(refused) == 3
    log = stack.central_home / "logs" / log_path(instances[LOOP], 1)
    stack.wait_until(lambda: log.exists() and IN_A_CIRCLE in log.read_text(), "the reason in the task's log")


def said_of(stack: Stack, run_id: str, task_id: str) -> str:
    """Return what Airflow's audit log says of a task."""
    params = {"dag_id": DAG, "run_id": run_id, "task_id": task_id}
    return " ".join(entry["extra"] or "" for entry in stack.rest("GET", "/eventLogs", params=params)["event_logs"])
