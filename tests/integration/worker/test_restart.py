"""The worker is killed; its supervisors are not."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.protocol.limits import LEASE_MARGIN_S
from edge_mqtt.broker_bridge.protocol.messages import Assign
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.core.lease import Contact
from edge_mqtt.worker.ipc.contact_file import contact_path
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.system.boot_clock import boottime
from tests.support.scenario_worker import fresh_home, supervisor_of, wait_until_ended
from tests.support.worker_lab import task_job
from tests.support.worker_lab_program import PROGRAMS, WorkerProgram


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)
    # Only a test that failed has left any.
    while PROGRAMS:
        PROGRAMS.pop().kill()


def test_restarted_worker_takes_over_the_running_task(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assign = task_job("wait_for")
    job_id = assign.job.job_id
    first = WorkerProgram(state)
    first.ready()
    first.assign(assign)
    first.until(lambda _: "tick 2" in first.log(job_id))
    supervisor = supervisor_of(state)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    assert supervisor.is_running()

    second = WorkerProgram(state)
    presence = second.until(lambda seen: next((m for m in seen if m["kind"] == "presence"), None))
    assert [(job["job_id"], job["state"]) for job in presence["jobs"]] == [(job_id, "running")]
    second.until(lambda _: "tick 2" in second.log(job_id))
    (tmp_path / "until").touch()
    result = second.result(job_id)
    assert (result["exit_code"], result["error"]) == (0, "")
    assert (tmp_path / "marks").read_text() == "ran\n"
    second.until(lambda _: len(second.log(job_id).encode()) == result["log_size"])
    assert assign.job.log_path is not None
    assert second.log(job_id) == (tmp_path / "home" / "logs" / assign.job.log_path).read_text()
    assert second.end(signal.SIGTERM) == 0


def test_restarted_worker_reports_a_task_that_ended_meanwhile(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assign = task_job("wait_for")
    first = WorkerProgram(state)
    first.ready()
    first.assign(assign)
    first.until(lambda _: "tick 1" in first.log(assign.job.job_id))
    supervisor = supervisor_of(state)
    # Killed together, as a reboot or the kernel's out-of-memory killer does it.
    first.process.send_signal(signal.SIGSTOP)
    supervisor.kill()
    first.end(signal.SIGKILL)

    second = WorkerProgram(state)
    result = second.result(assign.job.job_id)
    assert result["exit_code"] is None
    assert result["error"] == "the supervisor process is gone (reboot or kill)"
    second.end(signal.SIGTERM)


def leave_two_tasks(state: Path) -> tuple[list[Assign], list[psutil.Process]]:
    """Start two tasks and kill their worker; then let the lease of the first be over, and half of the second's."""
    worker = WorkerProgram(state)
    worker.ready()
    assigns = [task_job("wait_for", lease_s=600.0), task_job("wait_for", lease_s=6000.0)]
    supervisors = []
    for assign in assigns:
        worker.assign(assign)
        worker.has_logged(assign.job.job_id, "tick 1")
        supervisors.append(supervisor_of(state, assign.job.job_id))
    worker.end(signal.SIGKILL)
    return assigns, supervisors


def set_contact(state: Path) -> None:
    """Let the last contact be so long ago that a lease of 600 s is over."""
    contact = Contact(confirmed_at=boottime() - 600.0 + LEASE_MARGIN_S, kill_grace_s=1.0)
    contact_path(state / "runs").write_bytes(contact.to_json())


def test_tasks_of_a_dead_worker_are_stopped_when_their_own_leases_end(tmp_path: Path) -> None:
    state = tmp_path / "state"
    _, (short, long) = leave_two_tasks(state)
    task = short.children()[0]
    set_contact(state)
    wait_until_ended(short)
    wait_until_ended(task)
    assert long.is_running()
    assert long.children()
    assert (tmp_path / "marks").read_text() == "ran\n" * 2


def test_restarted_worker_that_finds_no_bridge_ends_its_tasks_at_their_own_leases(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assigns, (short, long) = leave_two_tasks(state)
    # The launcher that is left would do it too, and without it the tasks' supervisors.
    launcher = short.parent()
    assert launcher is not None
    launcher.suspend()
    set_contact(state)
    second = WorkerProgram(state, "cut")
    wait_until_ended(short)
    assert assigns[0].job.log_path is not None
    log = (tmp_path / "home" / "logs" / assigns[0].job.log_path).read_text()
    assert "Stopped by the edge worker: the bridge was out of reach" in log
    assert long.is_running()
    assert long.children()
    second.end(signal.SIGKILL)
    launcher.kill()


def test_supervisor_that_hung_while_there_was_no_worker_is_ended_by_the_next_one(tmp_path: Path) -> None:
    state = tmp_path / "state"
    hung, beside = task_job("wait_for"), task_job("wait_for")
    first = WorkerProgram(state)
    first.ready()
    for assign in (hung, beside):
        first.assign(assign)
        first.has_logged(assign.job.job_id, "tick 1")
    supervisor = supervisor_of(state, hung.job.job_id)
    task = supervisor.children()[0]
    first.end(signal.SIGKILL)
    supervisor.suspend()

    second = WorkerProgram(state, hung_after_s=6.0)
    result = second.result(hung.job.job_id)
    assert "the task's supervisor has hung" in result["error"]
    wait_until_ended(supervisor)
    wait_until_ended(task)
    (tmp_path / "until").touch()
    assert second.result(beside.job.job_id)["exit_code"] == 0
    second.end(signal.SIGTERM)


def test_job_that_was_stored_but_never_started_is_given_back(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "runs").mkdir(parents=True)
    assign = task_job("hello")
    spool = Spool.open(state / "spool.db")
    spool.store_job(LocalJob.from_assignment(assign).moved_to(LocalJobState.LAUNCHED, secret="s"))
    spool.close()
    worker = WorkerProgram(state)
    presence = worker.until(lambda seen: next((m for m in seen if m["kind"] == "presence"), None))
    assert presence["jobs"] == []
    assert not (tmp_path / "marks").exists()
    # The bridge sends it again, since the worker does not have it: now it runs, once.
    worker.assign(assign)
    assert worker.result(assign.job.job_id)["exit_code"] == 0
    assert (tmp_path / "marks").read_text() == "ran\n"
    worker.end(signal.SIGTERM)


def test_supervisor_of_a_job_that_its_worker_died_before_storing_ends_without_having_asked_anything(
    tmp_path: Path,
) -> None:
    state = tmp_path / "state"
    assign = task_job("hello")
    first = WorkerProgram(state)
    first.ready()
    spool = sqlite3.connect(state / "spool.db", isolation_level=None)
    spool.execute("BEGIN IMMEDIATE")
    first.assign(assign)
    supervisor = supervisor_of(state)
    first.end(signal.SIGKILL)
    spool.close()
    assert supervisor.is_running()

    second = WorkerProgram(state)
    second.ready()
    wait_until_ended(supervisor)
    # The bridge sends it again, since the worker does not have it: now it runs, once.
    second.assign(assign)
    assert second.result(assign.job.job_id)["exit_code"] == 0
    assert (tmp_path / "marks").read_text() == "ran\n"
    asked = second.until(lambda seen: [m["target"] for m in seen if m["kind"] == "api_request"])
    assert sum(target.endswith("/run") for target in asked) == 1
    second.end(signal.SIGTERM)


def test_signals_of_a_terminal_do_not_reach_the_tasks(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assign = task_job("wait_for")
    worker = WorkerProgram(state)
    worker.ready()
    worker.assign(assign)
    worker.until(lambda _: "tick 1" in worker.log(assign.job.job_id))
    supervisor = supervisor_of(state)
    assert os.getsid(supervisor.pid) == supervisor.pid
    assert os.getsid(supervisor.children()[0].pid) == supervisor.pid
    (tmp_path / "until").touch()
    worker.result(assign.job.job_id)
    worker.end(signal.SIGTERM)


def test_tasks_of_a_dead_worker_and_a_dead_launcher_end_when_their_own_leases_do(tmp_path: Path) -> None:
    state = tmp_path / "state"
    _, (short, long) = leave_two_tasks(state)
    task = short.children()[0]
    launcher = short.parent()
    assert launcher is not None
    launcher.kill()
    wait_until_ended(launcher)
    set_contact(state)
    wait_until_ended(short)
    wait_until_ended(task)
    assert long.is_running()
    assert long.children()
