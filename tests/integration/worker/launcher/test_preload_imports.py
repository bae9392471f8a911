"""Modules that ``preload_imports`` names: imported once for all tasks, or left out and named; real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.worker.ipc.framing import read_document
from edge_mqtt.worker.launcher.spawned import SpawnedLauncher
from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.worker_lab import task_job

VARIABLE = "AIRFLOW__EDGE_MQTT__PRELOAD_IMPORTS"

DAG = """
import os
import sys

before = set(sys.modules)

from airflow.sdk import DAG, task

with DAG("lab") as dag:

    @task
    def looks():
        print("requests", "was there" if "requests" in before else "was not there")

    @task
    def draws():
        import numpy.random
        print("drawn:", numpy.random.random())

    @task
    def sees(value):
        os.environ["LAB_BACKEND"] = value
        import reads_environment
        print("the library sees", reads_environment.BACKEND)

    looks()
    draws()
    for value in ("first", "second", "third"):
        sees.override(task_id=value)(value)
"""

HARMFUL = {
    "starts_thread": (
        "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()",
        "importing it starts a thread",
    ),
    "fails": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "raises": ("raise RuntimeError('not on\\nthis machine')", "RuntimeError: not on"),
    "exits": ("raise SystemExit", "SystemExit"),
    "ends_at_once": ("import os; os._exit(0)", "importing it ends the process"),
    "crashes": (
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "importing it ends the process with signal 11",
    ),
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


@pytest.fixture
def dag(tmp_path: Path) -> None:
    (tmp_path / "home" / "dags" / "lab.py").write_text(DAG)


def logs_of_tasks(tmp_path: Path, *tasks: str) -> list[str]:
    """Run tasks one after another on one worker; return their logs."""
    logs = []

    async def scenario(lab: Lab) -> None:
        for task_id in tasks:
            job_id = lab.bridge.assign(task_job(task_id))
            result = await lab.bridge.result(job_id)
            assert result.exit_code == 0
            await lab.whole_log(job_id, result.log_size)
            logs.append(lab.bridge.logs[job_id].decode())

    play(tmp_path, scenario)
    return logs


@pytest.mark.usefixtures("dag")
def test_library_that_is_named_is_there_before_the_dag_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "requests, xmlrpc.server")
    (log,) = logs_of_tasks(tmp_path, "looks")
    assert "requests was there" in log


@pytest.mark.usefixtures("dag")
def test_library_that_is_not_named_is_left_to_the_tasks(tmp_path: Path) -> None:
    (log,) = logs_of_tasks(tmp_path, "looks")
    assert "requests was not there" in log


def test_module_that_does_harm_is_left_out_and_the_launcher_stays_as_it_was(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, (code, _) in HARMFUL.items():
        (libraries / f"{name}.py").write_text(code)
    for name in ("harmless", "harmless_too"):
        (libraries / f"{name}.py").write_text("")
    monkeypatch.setenv(VARIABLE, ", ".join(["harmless", "is_not_there", *HARMFUL, "harmless_too"]))
    launcher = SpawnedLauncher()
    launcher.channel.settimeout(60)
    with launcher.channel as channel:
        document = read_document(channel)
        assert document is not None
        process = psutil.Process(launcher.process.pid)
        assert (process.num_threads(), process.children()) == (1, [])
    assert launcher.process.wait(30) == 0
    reasons = {name: reason for name, (_, reason) in HARMFUL.items()}
    missing = "ModuleNotFoundError: No module named 'is_not_there'"
    assert json.loads(document)["left_out"] == {"is_not_there": missing, **reasons}


def test_module_that_hangs_is_left_out(libraries: Path) -> None:
    (libraries / "hangs.py").write_text("import time; time.sleep(600)")
    code = (
        "from edge_mqtt.worker.launcher.preload_imports import preload_modules; "
        "print(preload_modules(['hangs'], limit_s=1))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "{'hangs': 'importing it takes longer than 1 s'}\n"


def test_worker_names_what_is_left_out_in_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(VARIABLE, "no_module, requests, other_module")
    logs_of_tasks(tmp_path)
    (warning,) = [line.getMessage() for line in caplog.records if line.levelname == "WARNING"]
    assert warning == (
        "preload_imports: not imported ahead of the tasks: no_module (ModuleNotFoundError: No module named "
        "'no_module'); other_module (ModuleNotFoundError: No module named 'other_module')"
    )


@pytest.mark.usefixtures("dag")
def test_library_sees_the_environment_of_its_own_task_whatever_tasks_before_it_imported(
    tmp_path: Path, libraries: Path
) -> None:
    (libraries / "reads_environment.py").write_text("import os; BACKEND = os.environ.get('LAB_BACKEND')")
    for task_id, log in zip(
        ("first", "second", "third"), logs_of_tasks(tmp_path, "first", "second", "third"), strict=True
    ):
        assert f"the library sees {task_id}" in log


@pytest.mark.usefixtures("dag")
def test_library_that_is_named_sees_the_workers_environment(
    tmp_path: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (libraries / "reads_environment.py").write_text("import os; BACKEND = os.environ.get('LAB_BACKEND')")
    monkeypatch.setenv(VARIABLE, "reads_environment")
    monkeypatch.setenv("LAB_BACKEND", "the worker's")
    (log,) = logs_of_tasks(tmp_path, "first")
    assert "the library sees the worker's" in log


@pytest.mark.usefixtures("dag")
def test_tasks_draw_different_random_numbers_though_numpy_made_its_generator_before_them(
    tmp_path: Path, libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As numpy.random has it: one generator, seeded at the import.
    (libraries / "numpy").mkdir()
    (libraries / "numpy" / "__init__.py").write_text("from numpy import random")
    (libraries / "numpy" / "random.py").write_text(
        "from random import Random; _generator = Random(); seed = _generator.seed; random = _generator.random"
    )
    monkeypatch.setenv(VARIABLE, "numpy")
    drawn = {log.partition("drawn: ")[2].partition('"')[0] for log in logs_of_tasks(tmp_path, "draws", "draws")}
    assert len(drawn) == 2
