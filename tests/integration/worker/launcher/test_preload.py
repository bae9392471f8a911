"""What the launcher has done once is done for every process that is forked from it: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scenario_worker import fresh_home


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


def after_preload(code: str) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a process that has preloaded."""
    script = f"from edge_mqtt.worker.launcher.preload import preload_airflow\npreload_airflow()\n{code}"
    return subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, timeout=120
    )


def test_database_is_let_go_of_before_the_first_fork() -> None:
    done = after_preload("from airflow import settings; print(settings.engine, settings.Session)")
    assert done.stdout.splitlines()[-1] == "None None"


def test_what_a_supervisor_says_on_its_own_behalf_goes_to_its_output_as_json() -> None:
    done = after_preload("import structlog; structlog.get_logger('supervisor').warning('the words', place='edge')")
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["event"], line["level"], line["place"]) == ("the words", "warning", "edge")


def test_launchers_own_end_is_told_in_plain_words() -> None:
    done = after_preload("import sys; print(sys.excepthook is sys.__excepthook__)")
    assert done.stdout.splitlines()[-1] == "True"


def test_preloading_leaves_one_thread() -> None:
    done = after_preload("import os; print(len(os.listdir('/proc/self/task')))")
    assert done.stdout.splitlines()[-1] == "1"


@pytest.mark.parametrize("module", ["rich", "pygments", "httpx._main"])
def test_what_only_a_terminal_needs_is_left_to_the_tasks_that_use_it(module: str) -> None:
    done = after_preload(f"import sys; print('{module}' in sys.modules); import {module}; print('imported')")
    assert done.stdout.splitlines()[-2:] == ["False", "imported"]


def test_no_source_is_kept_in_memory() -> None:
    # What is left are a few lines that attrs makes up for each class of its own.
    done = after_preload("import linecache, os; print(any(os.path.exists(name) for name in linecache.cache))")
    assert done.stdout.splitlines()[-1] == "False"


def test_the_worker_deletes_logs_as_the_site_says_and_airflow_in_a_task_never_does(tmp_path: Path) -> None:
    (tmp_path / "home" / "airflow.cfg").write_text("[logging]\ndelete_local_logs = True\n")
    script = """
from edge_mqtt.broker_bridge.program.settings.airflow_settings import DELETE_LOCAL_LOGS
from edge_mqtt.worker.launcher.preload import preload_airflow
found = preload_airflow().find(DELETE_LOCAL_LOGS)
from airflow.configuration import conf
print(found.text, conf.getboolean('logging', 'delete_local_logs'))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "True False"


#: Prints what Airflow goes by, as tasks and supervisors have it.
ASK = """
from airflow.configuration import conf
from airflow.sdk.execution_time import supervisor
examples = conf.getboolean('core', 'load_examples')
print(examples, supervisor.MIN_HEARTBEAT_INTERVAL, conf.getboolean('logging', 'delete_local_logs'))
"""


@pytest.mark.parametrize(
    ("file", "variables", "expected"),
    [
        ("", {}, "False 1 False"),
        ("[workers]\nmin_heartbeat_interval = 7\n[core]\nload_examples = True\n", {}, "True 7 False"),
        (
            "[workers]\nmin_heartbeat_interval = 7\n",
            {"AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "9"},
            "False 9 False",
        ),
        # In a task Airflow deletes nothing: the worker does, when the bridge has it.
        ("[logging]\ndelete_local_logs = True\n", {}, "False 1 False"),
    ],
)
def test_what_the_site_has_set_goes_before_our_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, variables: dict[str, str], expected: str
) -> None:
    monkeypatch.delenv("AIRFLOW__CORE__LOAD_EXAMPLES")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "home" / "airflow.cfg").write_text(file)
    assert after_preload(ASK).stdout.splitlines()[-1] == expected
