"""What is stopped in Airflow stops on the edge, within seconds and whether it wants to or not: at our defaults."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from deploy.quickstart.stack import Stack
from tests.support.bad_link import BadLink
from tests.support.outage_systems import FAR, ordinary
from tests.support.run_checks import assert_logs_equal
from tests.support.scenario_held_task import DAG, TASK, HeldTask, Watch, is_gone

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(240), ordinary]

#: The default of ``kill_grace``.
KILL_GRACE_S = 10
#: Seconds in which the process on the edge is told: ``heartbeat_interval`` is 4 by default, and half a second after
#: the refusal that the heartbeat brings, a second one confirms it.
TOLD_WITHIN_S = 5
#: Seconds more on a machine of two cores that does a lot else. What must be exact is counted in heartbeats.
NOISE_S = 10


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


class Heartbeats:
    """Those that Airflow refuses for one task instance, from now on."""

    def __init__(self, stack: Stack, held: HeldTask) -> None:
        self._path = f"/task-instances/{held.instance()['id']}/heartbeat"
        self._answers = Watch(stack, "api-server")

    def refused_until(self, moment: float) -> int:
        """Return how many were refused until a moment (Unix time)."""
        refused = [line for line in self._answers.lines(self._path) if "status_code=204" not in line]
        times = [datetime.fromisoformat(line.split()[0]).timestamp() for line in refused]
        return sum(at <= moment for at in times)


def assert_told_and_gone(stack: Stack, held: HeldTask, stop: Callable[[Stack, HeldTask], None]) -> None:
    """Stop a task, and assert that its ``on_kill`` ran in time and that nothing of it is left."""
    bridge, heartbeats = Watch(stack, "bridge"), Heartbeats(stack, held)
    asked_at = time.time()
    stop(stack, held)
    (told,) = held.await_trace("on_kill", timeout_s=60)
    told_at = float(told)
    print(f"{stop.__name__}: told after {told_at - asked_at:.2f} s")
    # The next heartbeat and the look half a second after it: whatever the machine does, it takes no third one.
    assert heartbeats.refused_until(told_at) == 2
    assert told_at - asked_at < TOLD_WITHIN_S + NOISE_S
    held.await_gone(timeout_s=KILL_GRACE_S + NOISE_S)
    bridge.await_line("outcome=cancelled", timeout_s=30)
    assert len(bridge.lines("job cancelled")) == 1


def test_cleared_task_is_stopped_and_runs_again(stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path)
    assert_told_and_gone(stack, held, clear)
    assert stack.wait_run(DAG, held.run_id, timeout_s=60) == "success"
    assert held.instance()["try_number"] == 2
    held.assert_tries_did_not_overlap()
    assert assert_logs_equal(stack, DAG, held.run_id) == 2
    assert "Stopped by the edge worker" in held.central_log()


@pytest.mark.parametrize(("stop", "state"), [(mark_failed, "failed"), (mark_success, "success")])
def test_task_that_is_marked_in_the_ui_is_stopped_and_keeps_the_mark(
    stack: Stack, tmp_path: Path, stop: Callable[[Stack, HeldTask], None], state: str
) -> None:
    held = HeldTask(stack, tmp_path)
    assert_told_and_gone(stack, held, stop)
    assert stack.wait_run(DAG, held.run_id, timeout_s=60) == state
    assert (held.instance()["state"], held.instance()["try_number"]) == (state, 1)
    assert assert_logs_equal(stack, DAG, held.run_id) == 1
    assert "not_running" in held.central_log()


def test_task_of_a_deleted_run_is_stopped(stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path)
    assert_told_and_gone(stack, held, delete_run)
    assert assert_logs_equal(stack, DAG, held.run_id) == 1
    # The scheduler, which has no such task any more, goes on with others.
    other = tmp_path / "other"
    HeldTask(stack, other).assert_undisturbed()


def test_task_that_is_marked_while_its_worker_is_out_of_reach_is_stopped_when_it_is_back(
    stack: Stack, far_link: BadLink, tmp_path: Path
) -> None:
    held = HeldTask(stack, tmp_path)
    heartbeats = Heartbeats(stack, held)
    far_link.cut()
    mark_failed(stack, held)
    stack.wait_until(lambda: heartbeats.refused_until(time.time()) >= 2, "the bridge to hear of it", timeout_s=30)
    held.await_beats(3)
    assert held.trace("on_kill") == []
    far_link.restore()
    held.await_trace("on_kill")
    held.await_gone(timeout_s=KILL_GRACE_S + NOISE_S)
    assert (held.instance()["state"], held.instance()["try_number"]) == ("failed", 1)
    assert assert_logs_equal(stack, DAG, held.run_id) == 1


def test_task_that_ignores_sigterm_is_killed_with_its_children(stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path, stubborn=True)
    (child,) = map(int, held.trace("child"))
    worker = Watch(stack, f"worker-{FAR}")
    mark_failed(stack, held)
    worker.await_line("stopping e2e_hold.hold", timeout_s=30)
    told_at = time.time()
    held.await_gone(timeout_s=KILL_GRACE_S + NOISE_S)
    # It had its time: it went on beating until it was killed.
    assert float(held.trace("beats")[-1]) - told_at > KILL_GRACE_S - 2
    stack.wait_until(lambda: is_gone(child), "the child to end", timeout_s=NOISE_S)
    assert held.trace("on_kill") == []
    assert stack.wait_run(DAG, held.run_id, timeout_s=60) == "failed"
    assert assert_logs_equal(stack, DAG, held.run_id) == 1
