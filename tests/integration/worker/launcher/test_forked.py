"""The launcher that is forked from the worker: what both share, what they do not, and what comes after it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from tests.support.scenario_worker import wait_until_ended
from tests.support.worker_program import WAIT_S, Program, Site, broker, new_site, options, start

SECRET = "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"


@pytest.fixture
def live_site(tmp_path: Path) -> Iterator[Site]:
    site = new_site(tmp_path)
    with broker(site) as port:
        yield Site(certs=site.certs, url=f"wss://localhost:{port}/mqtt")


def memory_kb(process: psutil.Process, kind: str) -> int:
    lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:"))


def launcher_of(program: Program) -> psutil.Process:
    (launcher,) = psutil.Process(program.process.pid).children()
    return launcher


def open_files(process: psutil.Process) -> set[str]:
    """Return the files and sockets that a process has open, but not libraries: each process opens the same."""
    names = {str(file) for file in descriptors(process) if ".so" not in file.suffixes}
    return {name for name in names if name.startswith(("/", "socket:"))} - {"/dev/null"}


def descriptors(process: psutil.Process) -> set[Path]:
    """Return what the process's descriptors stand for."""
    return {path.readlink() for path in Path(f"/proc/{process.pid}/fd").iterdir()}


def memory_of(process: psutil.Process) -> Iterator[bytes]:
    """Return what a process has in its heap and its other memory of no file, a region at a time."""
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            addresses, modes, _, _, inode, *_ = line.split()
            first, end = (int(address, 16) for address in addresses.split("-"))
            if modes.startswith("rw") and inode == "0":
                memory.seek(first)
                yield memory.read(end - first)


def in_python(code: str, home: Path, **environment: str) -> list[str]:
    """Run code in a process of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "AIRFLOW_HOME": str(home), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    return done.stdout.splitlines()


def test_most_memory_is_the_workers_and_the_launchers_together(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path))
    program.line("connected to")
    launcher = launcher_of(program)
    assert memory_kb(launcher, "Private_Dirty") < memory_kb(launcher, "Shared_Dirty")
    assert program.end(signal.SIGTERM)[0] == ExitCode.DONE


def test_worker_and_launcher_are_called_what_they_are(tmp_path: Path, live_site: Site) -> None:
    environment = {SECRET: "sqlite:////nowhere/secret.db"}
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path), environment=environment)
    program.line("connected to")
    worker, launcher = psutil.Process(program.process.pid), launcher_of(program)
    assert (worker.cmdline()[0], launcher.cmdline()[0]) == ("edge-worker[lab-1]", "edge-worker: launcher")
    assert program.end(signal.SIGTERM)[0] == ExitCode.DONE


def test_launcher_has_none_of_the_files_that_the_worker_has_open(tmp_path: Path, live_site: Site) -> None:
    with tempfile.TemporaryFile() as inherited:
        os.set_inheritable(inherited.fileno(), True)
        program = start(tmp_path, *options(live_site, "lab-1", tmp_path), inherit=(inherited.fileno(),))
        program.line("connected to")
        worker, launcher = psutil.Process(program.process.pid), launcher_of(program)
        of_both = open_files(worker) & open_files(launcher)
        name = str(Path(f"/proc/self/fd/{inherited.fileno()}").readlink())
    assert name in open_files(worker)
    assert of_both == set()
    assert program.end(signal.SIGTERM)[0] == ExitCode.DONE


def test_launcher_keeps_the_files_that_libraries_have_open(tmp_path: Path, live_site: Site) -> None:
    library = tmp_path / "libffi.so.8.5.0"
    with library.open("wb") as inherited:
        program = start(tmp_path, *options(live_site, "lab-1", tmp_path), inherit=(inherited.fileno(),))
        program.line("connected to")
    assert library in descriptors(launcher_of(program))
    assert program.end(signal.SIGTERM)[0] == ExitCode.DONE


def test_launcher_has_nothing_of_the_key_in_its_memory(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path))
    program.line("connected to")
    key = next(live_site.certs.rglob("lab-1/tls.key")).read_bytes().splitlines()[1]
    memory = list(memory_of(launcher_of(program)))
    assert any(b"AIRFLOW__CORE__LOAD_EXAMPLES" in region for region in memory)
    assert not any(key in region for region in memory)
    assert program.end(signal.SIGTERM)[0] == ExitCode.DONE


def test_launcher_ends_with_an_idle_worker_that_is_killed(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path))
    program.line("connected to")
    launcher = launcher_of(program)
    program.process.kill()
    wait_until_ended(launcher)
    assert program.end()[0] == -signal.SIGKILL


def test_killed_launcher_is_replaced_by_a_program_of_its_own(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path))
    program.line("connected to")
    launcher = launcher_of(program)
    launcher.kill()
    program.line("the launcher is back")
    replacement = launcher_of(program)
    assert replacement.pid != launcher.pid
    assert open_files(psutil.Process(program.process.pid)) & open_files(replacement) == set()
    assert program.end(signal.SIGTERM)[0] == ExitCode.DONE


def test_worker_speaks_on_stderr_alone_and_in_its_own_way(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path))
    line = program.line("connected to")
    assert line.split(maxsplit=2)[2].startswith("INFO    connected to")
    program.process.send_signal(signal.SIGTERM)
    stdout, _ = program.process.communicate(timeout=WAIT_S)
    assert stdout == ""


def test_worker_goes_on_with_a_tasks_environment(tmp_path: Path) -> None:
    code = f"""
import gc, os
from edge_mqtt.broker_bridge.program.settings.airflow_settings import BASE_LOG_FOLDER
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import Values
from edge_mqtt.worker.launcher.forked import loaded_airflow
with loaded_airflow() as airflow:
    pass
folder = Values(Reader.WORKER, airflow.settings)[BASE_LOG_FOLDER]
print("{SECRET}" in os.environ, os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"], folder)
print(gc.isenabled(), gc.get_freeze_count() > 100_000, len(os.listdir("/proc/self/task")))
"""
    told = in_python(
        code, tmp_path, **{SECRET: "sqlite:////nowhere/secret.db", "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
    )
    assert told == [f"False False {tmp_path / 'logs'}", "True True 1"]


def test_worker_imports_nothing_from_where_it_was_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = """
import sys
from edge_mqtt.worker.launcher.forked import loaded_airflow
with loaded_airflow():
    print("not on stdout")
print("" in sys.path)
"""
    assert in_python(code, tmp_path) == ["False"]


def test_worker_that_was_started_with_its_stdout_closed_loads_airflow_all_the_same(tmp_path: Path) -> None:
    code = """
import sys
from edge_mqtt.broker_bridge.program.settings.airflow_settings import BASE_LOG_FOLDER
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import Values
from edge_mqtt.worker.launcher.forked import loaded_airflow
with loaded_airflow() as airflow:
    pass
print(Values(Reader.WORKER, airflow.settings)[BASE_LOG_FOLDER], file=sys.stderr)
"""
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    assert done.stderr.splitlines() == [str(tmp_path / "logs")]
