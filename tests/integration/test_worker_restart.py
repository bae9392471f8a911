"""The worker is killed; its supervisors are not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from worker_lab import kill_supervisors, make_airflow_home, task_job

from edge_mqtt.broker_bridge.protocol.messages import Assign
from edge_mqtt.worker.core.lease import Lease
from edge_mqtt.worker.sysinfo import boottime

LAB = Path(__file__).with_name("worker_lab.py")
WAIT_S = 60.0


class WorkerProgram:
    """A worker and its bridge in a process of their own."""

    def __init__(self, state: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(LAB), str(state)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._seen: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                if line.startswith("{"):
                    self._seen.append(json.loads(line))
                self._news.notify_all()

    def until(self, condition: Callable[[list[dict[str, Any]]], Any]) -> Any:
        """Wait until what the bridge has seen meets ``condition``."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self._seen), WAIT_S), "it did not happen in time"
            return condition(self._seen)

    def ready(self) -> None:
        """Wait for the first presence."""
        self.until(lambda seen: any(message["kind"] == "presence" for message in seen))

    def assign(self, assign: Assign) -> None:
        """Give it a job."""
        assert self.process.stdin is not None
        self.process.stdin.write(assign.model_dump_json() + "\n")
        self.process.stdin.flush()

    def log(self, job_id: str) -> str:
        """Return what has arrived of a log on this bridge, which began with nothing."""
        chunks = [m for m in self._seen if m["kind"] == "log_chunk" and m["job_id"] == job_id]
        return "".join(chunk["body"] for chunk in sorted(chunks, key=lambda chunk: int(chunk["offset"])))

    def result(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's result."""
        found: dict[str, Any] = self.until(
            lambda seen: next((m for m in seen if m["kind"] == "finished" and m["job_id"] == job_id), None)
        )
        return found

    def end(self, signum: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(signum)
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        return code


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AIRFLOW_HOME", "")
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "")
    monkeypatch.setenv("LAB_MARKS", str(tmp_path / "marks"))
    monkeypatch.setenv("LAB_UNTIL", str(tmp_path / "until"))
    make_airflow_home(tmp_path / "home")
    yield
    kill_supervisors(tmp_path / "state")


def supervisor_of(state: Path) -> psutil.Process:
    """Return the supervisor that is at work for this state folder."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        for path in (state / "runs").glob("*.pid"):
            if text := path.read_text():
                return psutil.Process(int(text.split()[0]))
        time.sleep(0.05)
    raise AssertionError("no supervisor was started")


def wait_until_ended(process: psutil.Process) -> None:
    """Wait until a process is gone, or nobody is left to bury it."""
    deadline = time.monotonic() + WAIT_S
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{process} goes on"
        time.sleep(0.05)


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
    assign = task_job("shot")
    first = WorkerProgram(state)
    first.ready()
    first.assign(assign)
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


def test_task_of_a_dead_worker_is_stopped_when_its_lease_ends(tmp_path: Path) -> None:
    state = tmp_path / "state"
    assign = task_job("wait_for")
    first = WorkerProgram(state)
    first.ready()
    first.assign(assign)
    first.until(lambda _: "tick 1" in first.log(assign.job.job_id))
    supervisor = supervisor_of(state)
    task = supervisor.children()[0]
    first.end(signal.SIGKILL)
    now = boottime()
    (state / "runs" / "lease").write_bytes(Lease(stop_at=now, kill_at=now + 1.0).to_json())
    wait_until_ended(supervisor)
    wait_until_ended(task)
    assert (tmp_path / "marks").read_text() == "ran\n"


def test_job_that_was_stored_but_never_started_is_given_back(tmp_path: Path) -> None:
    from edge_mqtt.worker.core.jobs import HeldByUs, JobState
    from edge_mqtt.worker.spool import Spool

    state = tmp_path / "state"
    (state / "runs").mkdir(parents=True)
    assign = task_job("hello")
    spool = Spool.open(state / "spool.db")
    spool.store(HeldByUs(spec=assign.job, fence=assign.fence).to(JobState.LAUNCHED, secret="s"))
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
