"""What a task leaves when it is stopped, fails, succeeds or dies: real processes, also in sessions of their own."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import Cancel
from tests.support.processes import living_processes
from tests.support.scenario_worker import Lab, fresh_home, play, supervisor_of, wait_until_ended
from tests.support.worker_lab import task_job

#: What the tasks of this file leave behind: a child with its own outputs, and one that is a session's leader too.
DAG = """
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from airflow.sdk import DAG, task

HERE = Path(os.environ["LAB_MARKS"]).parent
NOWHERE = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(900)"
POLITE = (
    "import signal, sys, time; from pathlib import Path\\n"
    "def end(*_):\\n    Path(sys.argv[1]).write_text('ended in good order'); sys.exit()\\n"
    "signal.signal(signal.SIGTERM, end); Path(sys.argv[1]).touch(); time.sleep(900)"
)
#: A daemon as daemons are made: its parent has ended.
DAEMON = (
    "import subprocess, sys; to = subprocess.DEVNULL; command = [sys.executable, '-c', sys.argv[1]]\\n"
    "print(subprocess.Popen(command, start_new_session=True, stdin=to, stdout=to, stderr=to).pid)"
)


def leave():
    quiet = subprocess.Popen([sys.executable, "-c", STUBBORN], **NOWHERE).pid
    own = subprocess.Popen([sys.executable, "-c", STUBBORN], start_new_session=True, **NOWHERE).pid
    daemon = subprocess.run([sys.executable, "-c", DAEMON, "import time; time.sleep(900)"], stdout=subprocess.PIPE)
    text = f"{quiet} {own} {int(daemon.stdout)}"
    (HERE / "left.new").write_text(text)
    (HERE / "left.new").rename(HERE / "left")


with DAG("lab") as dag:

    @task
    def ends_on_sigterm():
        def end(*_):
            raise SystemExit(0)

        signal.signal(signal.SIGTERM, end)
        leave()
        while True:
            time.sleep(0.1)

    @task
    def has_a_polite_child():
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        told = HERE / "polite"
        subprocess.Popen([sys.executable, "-c", POLITE, str(told)], **NOWHERE)
        while not told.exists():
            time.sleep(0.05)
        leave()
        time.sleep(900)

    @task
    def succeeds():
        leave()

    @task
    def fails():
        leave()
        raise RuntimeError("it fails")

    @task
    def is_shot():
        leave()
        os.kill(os.getpid(), signal.SIGKILL)

    @task
    def makes_short_lived_daemons():
        for _ in range(5):
            subprocess.run([sys.executable, "-c", DAEMON, "pass"], stdout=subprocess.PIPE)
        leave()
        time.sleep(900)

    ends_on_sigterm()
    has_a_polite_child()
    succeeds()
    fails()
    is_shot()
    makes_short_lived_daemons()
"""


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for _ in fresh_home(tmp_path, monkeypatch):
        (tmp_path / "home" / "dags" / "lab.py").write_text(DAG)
        yield
    for process in left(tmp_path):
        process.kill()


def left(tmp_path: Path) -> list[psutil.Process]:
    """Return what lives of what a task has left."""
    return living_processes(tmp_path / "left")


async def has_left(tmp_path: Path) -> list[psutil.Process]:
    """Wait until a task has left what it leaves."""

    def wait() -> None:
        while not (tmp_path / "left").exists():
            time.sleep(0.02)

    async with asyncio.timeout(60):
        await asyncio.to_thread(wait)
    return left(tmp_path)


def cancel(lab: Lab, job_id: str) -> None:
    lab.bridge.control(Cancel(job_id=JobId(job_id), fence=Fence(1), reason="marked failed"))


@pytest.mark.parametrize("task_id", ["ends_on_sigterm", "makes_short_lived_daemons"])
def test_nothing_of_a_stopped_task_is_left_in_whatever_session(tmp_path: Path, task_id: str) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job(task_id))
        assert len(await has_left(tmp_path)) == 3
        cancel(lab, job_id)
        await lab.bridge.result(job_id)
        assert left(tmp_path) == []

    play(tmp_path, scenario, kill_grace_s=1.0)


def test_child_in_a_stopped_task_s_group_gets_sigterm_and_its_time_to_end(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("has_a_polite_child"))
        await has_left(tmp_path)
        cancel(lab, job_id)
        await lab.bridge.result(job_id)
        assert (tmp_path / "polite").read_text() == "ended in good order"
        assert left(tmp_path) == []

    play(tmp_path, scenario, kill_grace_s=2.0)


def test_daemon_of_a_task_that_succeeds_goes_on_as_with_the_local_executor(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        result = await lab.bridge.result(lab.bridge.assign(task_job("succeeds")))
        assert result.exit_code == 0
        assert len(left(tmp_path)) == 3

    play(tmp_path, scenario)


@pytest.mark.parametrize("task_id", ["fails", "is_shot"])
def test_nothing_is_left_for_the_next_try_of_a_task_that_fails(tmp_path: Path, task_id: str) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.bridge.result(lab.bridge.assign(task_job(task_id)))
        assert (tmp_path / "left").exists()
        assert left(tmp_path) == []

    play(tmp_path, scenario)


def test_supervisor_buries_what_its_task_has_left_while_it_runs(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("makes_short_lived_daemons"))
        await has_left(tmp_path)
        supervisor = supervisor_of(lab.state, job_id)

        def wait() -> None:
            while any(child.status() == psutil.STATUS_ZOMBIE for child in supervisor.children(recursive=True)):
                time.sleep(0.05)

        async with asyncio.timeout(30):
            await asyncio.to_thread(wait)
        cancel(lab, job_id)
        await lab.bridge.result(job_id)

    play(tmp_path, scenario, kill_grace_s=0.5)


def test_killed_supervisor_s_task_is_ended_in_its_session(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("ends_on_sigterm"))
        quiet, *_ = await has_left(tmp_path)
        supervisor_of(lab.state, job_id).kill()
        result = await lab.bridge.result(job_id)
        assert result.signal == signal.SIGKILL
        await asyncio.to_thread(wait_until_ended, quiet)

    play(tmp_path, scenario)
