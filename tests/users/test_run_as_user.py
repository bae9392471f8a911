"""Tasks that run as another user, by sudo, under a worker that is not root: they run, and they can be ended.

As root, with Debian's sudo; what it changes of the machine it changes for the worker's process alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.support.other_users import RULE, TASKS, WORKER, command_as_worker, missing, own_cgroup
from tests.support.processes import living_processes
from tests.support.scenario_worker import supervisor_of
from tests.support.worker_lab import kill_supervisors, make_airflow_home, task_job
from tests.support.worker_lab_program import PROGRAMS, WAIT_S, WorkerProgram

DAG = f"""
import getpass
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG, Variable, task

HERE = Path(os.environ["LAB_MARKS"]).parent
NOWHERE = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(900)"


def leave():
    children = [
        subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=own, **NOWHERE).pid
        for own in (False, True)
    ]
    (HERE / "left.new").write_text(" ".join(map(str, [os.getpid(), *children])))
    (HERE / "left.new").rename(HERE / "left")


with DAG("lab") as dag:

    @task(run_as_user="{TASKS}")
    def looks():
        assert getpass.getuser() == "{TASKS}"
        print(f"{{getpass.getuser()}} reads " + Variable.get("place"))

    @task(run_as_user="{TASKS}")
    def stubborn():
        signal.signal(signal.SIGTERM, lambda *_: (HERE / "asked").touch())
        leave()
        while True:
            time.sleep(0.1)

    @task(run_as_user="{TASKS}", execution_timeout=timedelta(seconds=2))
    def takes_too_long():
        leave()
        time.sleep(900)

    looks()
    stubborn()
    takes_too_long()
"""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Where the worker is a user of its own."""

    folder: Path

    @property
    def state(self) -> Path:
        """The worker's state folder."""
        return self.folder / "state"

    @property
    def sudoers(self) -> Path:
        """What stands for /etc/sudoers."""
        return self.folder / "sudoers"

    def worker(self, *by: str) -> WorkerProgram:
        """Start a worker.

        :param by: a command that runs another one.
        """
        program = WorkerProgram(self.state, by=[*by, *command_as_worker(self.sudoers)])
        program.ready()
        return program

    def left(self) -> list[psutil.Process]:
        """Return what lives of a task and its children."""
        return living_processes(self.folder / "shared" / "left")

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen in time"
            time.sleep(0.05)


@pytest.fixture
def delegated() -> Iterator[Path]:
    """A control group that is the worker's to divide."""
    group = own_cgroup() / f"edge-users-{os.getpid()}"
    group.mkdir()
    for path in (group, group / "cgroup.procs", group / "cgroup.subtree_control"):
        shutil.chown(path, WORKER)
    yield group
    (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + WAIT_S
    for below in (*group.glob("*/"), group):
        while (below / "cgroup.procs").read_text():
            assert time.monotonic() < deadline, f"{below} is not empty"
            time.sleep(0.02)
        below.rmdir()


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    assert not missing(), missing()
    # Below pytest's own folder no other user may look.
    folder = Path(tempfile.mkdtemp(prefix="edge-users-"))
    folder.chmod(0o755)
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for name, value in (("AIRFLOW_HOME", ""), ("AIRFLOW__CORE__LOAD_EXAMPLES", ""), ("HOME", str(folder / "home"))):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LAB_MARKS", str(shared / "marks"))
    make_airflow_home(folder / "home")
    (folder / "home" / "dags" / "lab.py").write_text(DAG)
    (folder / "state").mkdir()
    found = Machine(folder=folder)
    found.sudoers.write_text(RULE)
    found.sudoers.chmod(0o440)
    for path in (folder / "home", *(folder / "home").rglob("*"), folder / "state"):
        shutil.chown(path, WORKER)
    yield found
    while PROGRAMS:
        PROGRAMS.pop().kill()
    kill_supervisors(found.state)
    for process in found.left():
        process.kill()
    shutil.rmtree(folder)


def test_task_is_another_user_and_uses_airflow(machine: Machine) -> None:
    worker = machine.worker()
    job = task_job("looks")
    worker.assign(job)
    assert worker.result(job.job.job_id)["exit_code"] == 0
    worker.has_logged(job.job.job_id, f"{TASKS} reads the edge")
    worker.end(signal.SIGTERM)


def test_another_user_s_task_is_asked_to_end_and_then_killed_with_all_that_it_left(machine: Machine) -> None:
    worker = machine.worker()
    job = task_job("stubborn")
    worker.assign(job)
    machine.until(lambda: len(machine.left()) == 3)
    assert {process.username() for process in machine.left()} == {TASKS}
    worker.cancel(job)
    result = worker.result(job.job.job_id)
    assert (machine.folder / "shared" / "asked").exists()
    assert result["error"] == "marked failed"
    assert machine.left() == []
    worker.end(signal.SIGTERM)


def test_another_user_s_task_that_takes_too_long_leaves_nothing(machine: Machine) -> None:
    worker = machine.worker()
    job = task_job("takes_too_long")
    worker.assign(job)
    worker.result(job.job.job_id)
    worker.has_logged(job.job.job_id, "AirflowTaskTimeout")
    assert (machine.folder / "shared" / "left").exists()
    assert machine.left() == []
    worker.end(signal.SIGTERM)


def test_another_user_s_task_is_taken_over_and_can_be_stopped_by_a_restarted_worker(machine: Machine) -> None:
    first = machine.worker()
    job = task_job("stubborn")
    first.assign(job)
    machine.until(lambda: len(machine.left()) == 3)
    supervisor = supervisor_of(machine.state, job.job.job_id)
    first.end(signal.SIGKILL)
    assert len(machine.left()) == 3
    assert supervisor.is_running()
    second = machine.worker()
    second.cancel(job)
    second.result(job.job.job_id)
    assert machine.left() == []
    second.end(signal.SIGTERM)


def test_run_s_control_group_reaches_whoever_it_is_and_wherever_it_has_gone(
    machine: Machine, delegated: Path
) -> None:
    join = ("sh", "-c", f'echo $$ > {delegated}/cgroup.procs; exec "$@"', "sh")
    worker = machine.worker(*join)
    stopped, orphaned = task_job("stubborn"), task_job("stubborn")
    worker.assign(stopped)
    machine.until(lambda: len(machine.left()) == 3)
    (group,) = delegated.glob("run-*")
    assert {process.pid for process in machine.left()} < set(map(int, (group / "cgroup.procs").read_text().split()))
    # Nothing but the control group can end it now.
    os.truncate(machine.sudoers, 0)
    worker.cancel(stopped)
    worker.result(stopped.job.job_id)
    assert machine.left() == []
    assert not group.exists()
    machine.sudoers.write_text(RULE)
    (machine.folder / "shared" / "left").unlink()
    worker.assign(orphaned)
    machine.until(lambda: len(machine.left()) == 3)
    os.truncate(machine.sudoers, 0)
    supervisor_of(machine.state, orphaned.job.job_id).kill()
    worker.result(orphaned.job.job_id)
    assert machine.left() == []
    assert list(delegated.glob("run-*")) == []
    worker.end(signal.SIGTERM)


def test_task_that_may_not_be_killed_keeps_its_slot_and_is_told_of_until_it_may(machine: Machine) -> None:
    worker = machine.worker()
    job = task_job("stubborn")
    worker.assign(job)
    machine.until(lambda: len(machine.left()) == 3)
    # Somebody has taken the right away; the file is the same, as the worker sees it.
    os.truncate(machine.sudoers, 0)
    worker.cancel(job)
    worker.has_logged(job.job.job_id, "The edge worker cannot end this task: these processes cannot be killed")
    worker.has_logged(job.job.job_id, f"({TASKS}, ")
    assert len(machine.left()) == 3
    with machine.sudoers.open("w") as file:
        file.write(RULE)
    worker.result(job.job.job_id)
    assert machine.left() == []
    worker.end(signal.SIGTERM)
