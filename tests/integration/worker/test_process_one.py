"""The worker where what is left behind becomes its child: as process 1 of a container does, and every subreaper."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from tests.support.worker_program import WAIT_S, Program, Site, broker, new_site, options

#: Becomes a subreaper (prctl(2)), gets five children that others leave behind, and goes on as edge-worker.
SUBREAPER = """
import ctypes, os, runpy, sys
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
parent = os.fork()
if parent == 0:
    for _ in range(5):
        if os.fork() == 0:
            os.setsid()
            os.execlp("sleep", "sleep", "600")
    os._exit(0)
os.waitpid(parent, 0)
sys.argv = ["edge-worker", *sys.argv[1:]]
runpy.run_module("edge_mqtt.worker", run_name="__main__")
"""


@pytest.fixture
def live_site(tmp_path: Path) -> Iterator[Site]:
    site = new_site(tmp_path)
    with broker(site) as port:
        yield Site(certs=site.certs, url=f"wss://localhost:{port}/mqtt")


def test_nothing_defunct_stays_with_a_worker_to_which_it_is_left(tmp_path: Path, live_site: Site) -> None:
    home = tmp_path / "home"
    home.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-c", SUBREAPER, *options(live_site, "lab-1", tmp_path)],
        env={**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    program = Program(process)
    program.line("connected to")
    worker = psutil.Process(process.pid)
    left = [child for child in worker.children() if child.name() == "sleep"]
    assert len(left) == 5
    for child in left:
        child.kill()
    deadline = time.monotonic() + WAIT_S
    while any(psutil.pid_exists(child.pid) for child in left):
        assert time.monotonic() < deadline, worker.children()
        time.sleep(0.05)
    # Its own child, the launcher, is none of them, and is waited for where it is due.
    assert len(worker.children()) == 1
    assert program.end(signal.SIGTERM)[0] == ExitCode.DONE
