"""Kill or cut anything while twenty tasks run: all of them succeed, none runs twice, no log byte is missing."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.quickstart.stack import Stack
from tests.support.bad_link import BadLink
from tests.support.run_checks import assert_logs_equal, assert_one_final_event, assert_ran_once

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(400)]

TASKS = 20
DAG = "e2e_lines"


def run_disturbed(stack: Stack, folder: Path, *, seconds: int, disturb: Callable[[], None]) -> None:
    """Run the Dag, disturb it once every task's code runs, and check everything at its end."""
    run_id = stack.trigger(DAG, {"tasks": TASKS, "seconds": seconds, "folder": str(folder)})
    stack.wait_until(lambda: len(list(folder.iterdir())) == TASKS, f"{TASKS} tasks to run at once", timeout_s=120)
    disturb()
    assert stack.wait_run(DAG, run_id, timeout_s=240) == "success"
    instances = stack.task_instances(DAG, run_id)
    assert {instance["state"] for instance in instances} == {"success"}
    assert {instance["try_number"] for instance in instances} == {1}
    assert_ran_once(folder, TASKS)
    assert_one_final_event(stack, run_id, "trace", {(index, 1) for index in range(TASKS)})
    assert assert_logs_equal(stack, DAG, run_id) == TASKS + 1
    stack.check_alive()


def test_the_bridge_is_killed_and_comes_back_after_five_seconds(stack: Stack, tmp_path: Path) -> None:
    def disturb() -> None:
        stack.kill("bridge", signal.SIGKILL)
        time.sleep(5)
        stack.restart("bridge")

    run_disturbed(stack, tmp_path, seconds=20, disturb=disturb)


def test_the_scheduler_is_killed_and_the_new_one_adopts(stack: Stack, tmp_path: Path) -> None:
    before = stack.log_of("scheduler").count("job adopted")

    def disturb() -> None:
        stack.kill("scheduler", signal.SIGKILL)
        stack.restart("scheduler")

    run_disturbed(stack, tmp_path, seconds=45, disturb=disturb)
    assert stack.log_of("scheduler").count("job adopted") - before == TASKS


def test_the_worker_s_link_is_cut_for_twenty_seconds(stack: Stack, bad_link: BadLink, tmp_path: Path) -> None:
    def disturb() -> None:
        bad_link.cut()
        time.sleep(20)
        bad_link.restore()

    run_disturbed(stack, tmp_path, seconds=30, disturb=disturb)
