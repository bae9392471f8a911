"""What is stopped in Airflow stops on the edge, within seconds and whether it wants to or not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.quickstart.homes import merged
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.e2e.checks import assert_logs_equal
from tests.e2e.conftest import QUICK, running_stack
from tests.outages.held_tasks import DAG, DAGS, QUEUE, TASK, HeldTask, Watch, is_gone

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(240)]

NAME = "edge-1"
HEARTBEAT_S = 2
KILL_GRACE_S = 3
#: Seconds after which the process on the edge has been told.
TOLD_WITHIN_S = 5
CONFIG = merged(
    QUICK,
    {
        "edge_mqtt": {
            "kill_grace": str(KILL_GRACE_S),
            "presence_interval": "3",
            "heartbeat_interval": str(HEARTBEAT_S),
        }
    },
)


@pytest.fixture(scope="module")
def cancel_stack() -> Iterator[Stack]:
    """A stack with one worker."""
    with running_stack(dags=DAGS, config=CONFIG, workers=[WorkerSpec(name=NAME, queues=(QUEUE,))]) as stack:
        stack.wait_for_dag(DAG)
        yield stack
        stack.check_alive()


def clear(stack: Stack, held: HeldTask) -> None:
    body = {"dry_run": False, "only_failed": False, "dag_run_id": held.run_id, "task_ids": [TASK]}
    stack.rest("POST", f"/dags/{DAG}/clearTaskInstances", body)


def mark_failed(stack: Stack, held: HeldTask) -> None:
    stack.rest("PATCH", f"{held.path}/taskInstances/{TASK}", {"new_state": "failed"})


def mark_success(stack: Stack, held: HeldTask) -> None:
    stack.rest("PATCH", f"{held.path}/taskInstances/{TASK}", {"new_state": "success"})


def delete_run(stack: Stack, held: HeldTask) -> None:
    # Airflow deletes no run that goes on.
    stack.rest("PATCH", held.path, {"state": "failed"})
    # Airflow 3.3's scheduler dies of a run that vanishes while it is being scheduled (_schedule_all_dag_runs).
    time.sleep(1)
    stack.rest("DELETE", held.path)


def assert_told_and_gone(stack: Stack, held: HeldTask, stop: Callable[[Stack, HeldTask], None]) -> None:
    """Stop a task, and assert that its ``on_kill`` ran in time and that nothing of it is left."""
    bridge = Watch(stack, "bridge")
    asked_at = time.time()
    stop(stack, held)
    (told_at,) = held.await_trace("on_kill", timeout_s=15)
    assert float(told_at) - asked_at < TOLD_WITHIN_S
    held.await_gone(timeout_s=15)
    bridge.await_line("outcome=cancelled", timeout_s=15)
    assert len(bridge.lines("job finished")) == 1


def test_cleared_task_is_stopped_and_runs_again(cancel_stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(cancel_stack, tmp_path)
    assert_told_and_gone(cancel_stack, held, clear)
    assert cancel_stack.wait_run(DAG, held.run_id, timeout_s=60) == "success"
    assert held.instance()["try_number"] == 2
    held.assert_tries_did_not_overlap()
    assert assert_logs_equal(cancel_stack, DAG, held.run_id) == 2
    assert "Stopped by the edge worker" in held.central_log()


@pytest.mark.parametrize(("stop", "state"), [(mark_failed, "failed"), (mark_success, "success")])
def test_task_that_is_marked_in_the_ui_is_stopped_and_keeps_the_mark(
    cancel_stack: Stack, tmp_path: Path, stop: Callable[[Stack, HeldTask], None], state: str
) -> None:
    held = HeldTask(cancel_stack, tmp_path)
    assert_told_and_gone(cancel_stack, held, stop)
    assert cancel_stack.wait_run(DAG, held.run_id, timeout_s=60) == state
    assert (held.instance()["state"], held.instance()["try_number"]) == (state, 1)
    assert assert_logs_equal(cancel_stack, DAG, held.run_id) == 1
    assert "not_running" in held.central_log()


def test_task_of_a_deleted_run_is_stopped(cancel_stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(cancel_stack, tmp_path)
    assert_told_and_gone(cancel_stack, held, delete_run)
    assert assert_logs_equal(cancel_stack, DAG, held.run_id) == 1
    # The scheduler, which has no such task any more, goes on with others.
    other = tmp_path / "other"
    HeldTask(cancel_stack, other).assert_undisturbed()


def test_task_that_ignores_sigterm_is_killed_with_its_children(cancel_stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(cancel_stack, tmp_path, stubborn=True)
    (child,) = map(int, held.trace("child"))
    worker = Watch(cancel_stack, f"worker-{NAME}")
    mark_failed(cancel_stack, held)
    worker.await_line("stopping e2e_hold.hold", timeout_s=15)
    told_at = time.time()
    held.await_gone(timeout_s=KILL_GRACE_S + 5)
    # It had its time: it went on beating until it was killed.
    assert float(held.trace("beats")[-1]) - told_at > KILL_GRACE_S - 1
    cancel_stack.wait_until(lambda: is_gone(child), "the child to end", timeout_s=5)
    assert held.trace("on_kill") == []
    assert cancel_stack.wait_run(DAG, held.run_id, timeout_s=60) == "failed"
    assert assert_logs_equal(cancel_stack, DAG, held.run_id) == 1
