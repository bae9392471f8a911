"""What tasks import is imported in the launcher ahead of the next ones, unless that does harm: real processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk.execution_time import task_runner

from edge_mqtt.worker.core.imports import Learned, Report
from edge_mqtt.worker.launcher.learned import Learner, imports_file
from edge_mqtt.worker.launcher.main import framed, read_document
from edge_mqtt.worker.runs.launcher_client import LauncherProcess
from tests.support.scenario_worker import Lab, fresh_home, play, wait_until_ended
from tests.support.worker_lab import task_job

DAG = """
import sys

before = set(sys.modules)

import helper_of_the_dag
import xmlrpc.server
from airflow.sdk import DAG, task

with DAG("lab") as dag:

    @task
    def looks():
        print("the server", "was there" if "xmlrpc.server" in before else "had to be imported")
        print("the helper", "was there" if "helper_of_the_dag" in before else "had to be imported")

    looks()
"""

HARMFUL = {
    "starts_thread": (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "importing it changes: threads",
    ),
    "opens_file": ("file = open(__file__)", "importing it changes: open files"),
    "has_seed": ("import random; chance = random.Random()", "importing it changes: random generators"),
    "sets_variable": ("import os; os.environ['LEFT_BEHIND'] = '1'", "importing it changes: environment"),
    "fails": ("import no_such_module", "importing it fails: ModuleNotFoundError"),
    "exits": ("raise SystemExit", "importing it fails: SystemExit"),
    "crashes": ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "importing it did not come to an end"),
    "is_large": ("data = [bytes(8192) for _ in range(16 * 1024)]", "it takes 128 MB of memory"),
}


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules that every process can import."""
    folder = tmp_path / "libraries"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder


def remember(runs: Path, *names: str) -> None:
    """Leave behind what a worker does whose tasks imported these."""
    runs.mkdir(parents=True)
    learned = Learned()
    for _ in range(2):
        learned.note(Report(installed=names, own=()), now=time.time())
    imports_file(runs).write_bytes(learned.to_json())


def next_report(channel: socket.socket) -> dict[str, Any]:
    document = read_document(channel)
    assert document is not None
    report: dict[str, Any] = json.loads(document)
    return report


def test_module_that_does_harm_is_left_to_the_tasks_and_costs_no_more_than_its_trial(
    tmp_path: Path, libraries: Path
) -> None:
    runs = tmp_path / "state" / "runs"
    for name, (code, _) in HARMFUL.items():
        (libraries / f"{name}.py").write_text(code)
    for name in ("harmless", "harmless_too"):
        (libraries / f"{name}.py").write_text("")
    remember(runs, "harmless", *HARMFUL, "harmless_too")
    launcher = LauncherProcess()
    launcher.channel.settimeout(60)
    with launcher.channel as channel:
        assert next_report(channel)["ready"]
        channel.sendall(framed(json.dumps({"folder": str(runs)}).encode()))
        imported: list[str] = []
        refused: dict[str, str] = {}
        while "harmless_too" not in imported:
            report = next_report(channel)
            imported += report["preloaded"]
            refused |= report["refused"]
        process = psutil.Process(launcher.process.pid)
        assert process.num_threads() == 1
        assert process.children() == []
    assert launcher.process.wait(30) == 0
    assert imported == ["harmless", "harmless_too"]
    assert refused == {name: reason for name, (_, reason) in HARMFUL.items()}
    again = Learned.from_json(imports_file(runs).read_bytes(), now=time.time())
    assert again.wanted() == ("harmless", "harmless_too")


def test_trial_ends_when_the_worker_does(tmp_path: Path, libraries: Path) -> None:
    runs = tmp_path / "state" / "runs"
    begun = tmp_path / "begun"
    os.mkfifo(begun)
    (libraries / "hangs.py").write_text(f"import time; open({str(begun)!r}, 'w').close(); time.sleep(600)")
    remember(runs, "hangs")
    launcher = LauncherProcess()
    launcher.channel.settimeout(60)
    with launcher.channel as channel:
        assert next_report(channel)["ready"]
        channel.sendall(framed(json.dumps({"folder": str(runs)}).encode()))
        begun.read_bytes()
        (trial,) = psutil.Process(launcher.process.pid).children()
        assert trial.is_running()
    assert launcher.process.wait(30) == 0
    wait_until_ended(trial)
    assert Learned.from_json(imports_file(runs).read_bytes(), now=time.time()).wanted() == ("hangs",)


@pytest.mark.parametrize("says", ["True", "False"])
def test_nothing_is_learned_or_imported_ahead_where_that_is_switched_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_MQTT__PRELOAD_LEARNED_IMPORTS", says)
    runs = tmp_path / "state" / "runs"
    remember(runs, "a_library")
    monkeypatch.setattr(task_runner, "main", task_runner.main)
    before = task_runner.main
    learner = Learner()
    try:
        learner.begin(runs)
        assert (learner.patience_s is not None) is (says == "True")
        learner.tell_imports()
        assert (task_runner.main is not before) is (says == "True")
    finally:
        learner.ear.close()
        learner._mouth.close()


def test_module_that_hangs_ends_its_trial(libraries: Path) -> None:
    (libraries / "hangs.py").write_text("import time; time.sleep(600)")
    code = (
        "from edge_mqtt.worker.launcher import learned_trial; learned_trial.IMPORT_LIMIT_S = 1; "
        "learned_trial.try_imports(['hangs'], 1, 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGALRM, b"hangs\n")


def test_task_finds_there_what_two_tasks_before_it_imported_also_after_a_restart(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="edge_mqtt.worker.runs.launcher_client")
    (tmp_path / "home" / "dags" / "lab.py").write_text(DAG)
    (tmp_path / "home" / "dags" / "helper_of_the_dag.py").write_text("")

    async def learned() -> None:
        async with asyncio.timeout(60):
            while not any(getattr(line, "action", "") == "imports_learned" for line in caplog.records):  # noqa: ASYNC110 -- a log
                await asyncio.sleep(0.05)

    async def log_of_task(lab: Lab) -> bytes:
        job_id = lab.bridge.assign(task_job("looks"))
        result = await lab.bridge.result(job_id)
        assert result.exit_code == 0
        await lab.whole_log(job_id, result.log_size)
        return bytes(lab.bridge.logs[job_id])

    async def first(lab: Lab) -> None:
        for _ in range(2):
            assert b"the server had to be imported" in await log_of_task(lab)
        await learned()
        assert b"the server was there" in await log_of_task(lab)

    async def second(lab: Lab) -> None:
        await learned()
        log = await log_of_task(lab)
        assert b"the server was there" in log
        assert b"the helper had to be imported" in log

    play(tmp_path, first)
    known = json.loads(imports_file(tmp_path / "state" / "runs").read_bytes())
    assert known["xmlrpc"]["seen"] == 2
    assert known["helper_of_the_dag"]["refused"]
    caplog.clear()
    play(tmp_path, second)
