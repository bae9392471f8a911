"""What is killed on the edge, and what becomes of the tasks: the worker, the machine, a task, a supervisor."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from deploy.quickstart.services import SCRIPTS
from deploy.quickstart.stack import Stack
from tests.support.outage_systems import FAR, KEEP_ALIVE_S, QUEUE, SHORT_GRACE_S, hurried
from tests.support.run_checks import assert_logs_equal
from tests.support.scenario_held_task import BRIEF_DAG, DAG, HeldTask, Watch

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(240), hurried]

WORKER = f"worker-{FAR}"


def assert_second_try_succeeded(stack: Stack, held: HeldTask, *, logs: int = 2) -> None:
    assert stack.wait_run(held.dag_id, held.run_id, timeout_s=60) == "success"
    assert held.instance()["try_number"] == 2
    held.assert_tries_did_not_overlap()
    held.assert_one_final_event()
    assert assert_logs_equal(stack, held.dag_id, held.run_id) == logs


def test_tasks_go_on_while_their_worker_is_dead_and_the_next_one_takes_them_over(
    stack: Stack, tmp_path: Path
) -> None:
    tasks = [HeldTask(stack, tmp_path / str(number)) for number in range(3)]
    stack.kill(WORKER, signal.SIGKILL)
    assert stack.services[WORKER].wait(10)
    for held in tasks:
        held.await_beats(3)
    tasks[0].push()
    watch = Watch(stack, WORKER)
    stack.restart(WORKER)
    watch.await_line("goes on (pid", count=3)
    tasks[0].await_trace("pushed")
    for held in tasks:
        held.await_beats(3)
        held.assert_undisturbed()
        assert_logs_equal(stack, DAG, held.run_id)


def test_task_that_ended_while_its_worker_was_dead_is_reported_by_the_next_one(stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path)
    stack.kill(WORKER, signal.SIGKILL)
    assert stack.services[WORKER].wait(10)
    held.release()
    stack.restart(WORKER)
    held.assert_undisturbed()
    assert_logs_equal(stack, DAG, held.run_id)


def lose_machine(stack: Stack, tasks: list[HeldTask]) -> None:
    """Kill everything on the far machine at once."""
    processes = stack.services[WORKER].processes()
    assert {held.pid for held in tasks} < {process.pid for process in processes}
    # The worker is the first in the list: it sees none of the others die.
    for process in processes:
        process.kill()
    for held in tasks:
        held.await_gone()
    assert {held.instance()["state"] for held in tasks} == {"running"}


def test_tasks_of_a_machine_that_rebooted_fail_at_its_first_hello(stack: Stack, tmp_path: Path) -> None:
    tasks = [HeldTask(stack, tmp_path / str(number)) for number in range(2)]
    lose_machine(stack, tasks)
    bridge = Watch(stack, "bridge")
    stack.restart(WORKER)
    bridge.await_line("job finished", count=2)
    failed = bridge.lines("job finished")
    assert all("outcome=failed" in line and "the supervisor process is gone" in line for line in failed[:2])
    for held in tasks:
        assert_second_try_succeeded(stack, held)


def test_new_machine_under_the_old_name_takes_over_and_what_the_old_one_ran_is_tried_again_when_its_lease_is_over(
    stack: Stack, tmp_path: Path
) -> None:
    held = HeldTask(stack, tmp_path / "old", dag_id=BRIEF_DAG)
    lose_machine(stack, [held])
    for folder in ("state", "logs"):
        shutil.rmtree(stack.worker_home(FAR) / folder)
    bridge = Watch(stack, "bridge")
    stack.restart(WORKER)
    # The new machine works at once. The old one's task may be running behind a partition, for all that anybody knows.
    other = HeldTask(stack, tmp_path / "new")
    assert held.instance()["state"] == "running"
    bridge.await_line("outcome=lost", timeout_s=5 * SHORT_GRACE_S)
    assert_second_try_succeeded(stack, held, logs=1)
    other.assert_undisturbed()


def test_task_that_is_killed_says_by_what_and_is_tried_again(stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(stack, tmp_path)
    bridge = Watch(stack, "bridge")
    os.kill(held.pid, signal.SIGKILL)
    bridge.await_line("killed by SIGKILL (likely out of memory)", timeout_s=30)
    assert_second_try_succeeded(stack, held)
    assert "SIGKILL" in held.central_log()


def test_task_does_not_outlive_its_supervisor(stack: Stack, tmp_path: Path) -> None:
    # A task that writes something would notice by itself that nobody reads it any more.
    held = HeldTask(stack, tmp_path, quiet=True)
    bridge = Watch(stack, "bridge")
    os.kill(held.supervisor_pid, signal.SIGKILL)
    held.await_gone(timeout_s=20)
    bridge.await_line("killed by SIGKILL (likely out of memory)", timeout_s=30)
    assert_second_try_succeeded(stack, held)


def test_second_worker_with_the_same_certificate_is_refused_and_the_first_undisturbed(
    stack: Stack, tmp_path: Path
) -> None:
    held = HeldTask(stack, tmp_path)
    first = Watch(stack, WORKER)
    home = stack.worker_home(FAR)
    options = {
        "--bridge": stack.bridge_url,
        "--certs": str(home / "certs"),
        "--queues": QUEUE,
        "--state-dir": str(stack.directory / "twin"),
    }
    command = [str(SCRIPTS / "edge-worker"), *(word for pair in options.items() for word in pair)]
    environment = stack.environment(home) | {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": str(KEEP_ALIVE_S)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 4
    assert f"another program is connected as worker:{FAR}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert first.lines("connection lost") == []
    held.await_beats(2)
    held.assert_undisturbed()
    assert_logs_equal(stack, DAG, held.run_id)
