"""Airflow's supervisor sees its task's end when it comes, and not at its next look: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scenario_worker import fresh_home

#: A task that closes all its sockets, as one that ends does, and stays until it is told to end.
SCRIPT = """
import os, uuid
from airflow.sdk.execution_time.supervisor import WatchedSubprocess
from edge_mqtt.worker.supervisor.airflow_internals import watch_tasks

watch_tasks()
told, tell = os.pipe()

def task():
    os.closerange(told + 1, os.sysconf("SC_OPEN_MAX"))
    os.closerange(0, 3)
    os.read(told, 1)
    os._exit(7)

class Subprocess(WatchedSubprocess):
    decoder = None

process = Subprocess.start(id=uuid.uuid4(), target=task)
while process._open_sockets:
    assert process._service_subprocess(max_wait_time=60) is None
os.write(tell, b".")
print(process._service_subprocess(max_wait_time=3600))
"""


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


def test_end_of_a_task_that_has_closed_its_sockets_before_is_waited_on() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "7"
