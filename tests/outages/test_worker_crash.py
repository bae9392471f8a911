"""What is killed on the edge, and what becomes of the tasks: the worker, the machine, a task, a supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.quickstart.homes import merged
from deploy.quickstart.parts import SCRIPTS
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.e2e.checks import assert_logs_equal
from tests.e2e.conftest import QUICK, running_stack
from tests.outages.held_tasks import DAG, DAGS, QUEUE, HeldTask, Watch

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(240)]

NAME = "edge-1"
WORKER = f"worker-{NAME}"
#: Seconds between MQTT pings; a name in use is asked for again during twice as many.
KEEP_ALIVE_S = 6
CONFIG = merged(QUICK, {"edge_mqtt": {"kill_grace": "3", "presence_interval": "3", "heartbeat_interval": "2"}})


@pytest.fixture(scope="module")
def edge_stack() -> Iterator[Stack]:
    """A stack with one worker."""
    workers = [WorkerSpec(name=NAME, queues=(QUEUE,))]
    environment = {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": str(KEEP_ALIVE_S)}
    with running_stack(dags=DAGS, config=CONFIG, workers=workers, environment=environment) as stack:
        stack.wait_for_dag(DAG)
        yield stack


def assert_second_try_succeeded(stack: Stack, held: HeldTask) -> None:
    assert stack.wait_run(DAG, held.run_id, timeout_s=60) == "success"
    assert held.instance()["try_number"] == 2
    held.assert_tries_did_not_overlap()
    assert assert_logs_equal(stack, DAG, held.run_id) == 2


def test_tasks_go_on_while_their_worker_is_dead_and_the_next_one_takes_them_over(
    edge_stack: Stack, tmp_path: Path
) -> None:
    tasks = [HeldTask(edge_stack, tmp_path / str(number)) for number in range(3)]
    edge_stack.kill(WORKER, signal.SIGKILL)
    assert edge_stack.parts[WORKER].wait(10)
    for held in tasks:
        held.await_beats(3)
    tasks[0].push()
    watch = Watch(edge_stack, WORKER)
    edge_stack.restart(WORKER)
    watch.await_line("goes on (pid", count=3)
    tasks[0].await_trace("pushed")
    for held in tasks:
        held.await_beats(3)
        held.assert_undisturbed()
        assert_logs_equal(edge_stack, DAG, held.run_id)
    edge_stack.check_alive()


def test_task_that_ended_while_its_worker_was_dead_is_reported_by_the_next_one(
    edge_stack: Stack, tmp_path: Path
) -> None:
    held = HeldTask(edge_stack, tmp_path)
    edge_stack.kill(WORKER, signal.SIGKILL)
    assert edge_stack.parts[WORKER].wait(10)
    held.release()
    edge_stack.restart(WORKER)
    held.assert_undisturbed()
    assert_logs_equal(edge_stack, DAG, held.run_id)


def test_tasks_of_a_machine_that_rebooted_fail_at_its_first_hello(edge_stack: Stack, tmp_path: Path) -> None:
    tasks = [HeldTask(edge_stack, tmp_path / str(number)) for number in range(2)]
    processes = edge_stack.parts[WORKER].processes()
    assert {held.pid for held in tasks} < {process.pid for process in processes}
    # The worker is the first in the list: it sees none of the others die.
    for process in processes:
        process.kill()
    for held in tasks:
        held.await_gone()
    assert {held.instance()["state"] for held in tasks} == {"running"}
    bridge = Watch(edge_stack, "bridge")
    edge_stack.restart(WORKER)
    bridge.await_line("job finished", count=2, timeout_s=20)
    failed = bridge.lines("job finished")
    assert all("outcome=failed" in line and "the supervisor process is gone" in line for line in failed[:2])
    for held in tasks:
        assert_second_try_succeeded(edge_stack, held)
    edge_stack.check_alive()


def test_task_that_is_killed_says_by_what_and_is_tried_again(edge_stack: Stack, tmp_path: Path) -> None:
    held = HeldTask(edge_stack, tmp_path)
    bridge = Watch(edge_stack, "bridge")
    os.kill(held.pid, signal.SIGKILL)
    bridge.await_line("killed by SIGKILL (likely out of memory)", timeout_s=15)
    assert_second_try_succeeded(edge_stack, held)
    assert "SIGKILL" in held.central_log()


def test_task_does_not_outlive_its_supervisor(edge_stack: Stack, tmp_path: Path) -> None:
    # A task that writes something would notice by itself that nobody reads it any more.
    held = HeldTask(edge_stack, tmp_path, quiet=True)
    bridge = Watch(edge_stack, "bridge")
    os.kill(held.supervisor_pid, signal.SIGKILL)
    held.await_gone(timeout_s=5)
    bridge.await_line("killed by SIGKILL (likely out of memory)", timeout_s=15)
    assert_second_try_succeeded(edge_stack, held)


def test_second_worker_with_the_same_certificate_is_refused_and_the_first_undisturbed(
    edge_stack: Stack, tmp_path: Path
) -> None:
    held = HeldTask(edge_stack, tmp_path)
    first = Watch(edge_stack, WORKER)
    home = edge_stack.worker_home(NAME)
    options = {
        "--bridge": edge_stack.bridge_url,
        "--certs": str(home / "certs"),
        "--queues": QUEUE,
        "--state-dir": str(edge_stack.directory / "twin"),
    }
    command = [str(SCRIPTS / "edge-worker"), *(word for pair in options.items() for word in pair)]
    environment = edge_stack.environment(home) | {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": str(KEEP_ALIVE_S)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 4
    assert f"another program is connected as worker:{NAME}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert first.lines("connection lost") == []
    held.await_beats(2)
    held.assert_undisturbed()
    assert_logs_equal(edge_stack, DAG, held.run_id)
