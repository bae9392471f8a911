"""A state folder that cannot be used: one clear line, exit code 2, and nothing of what is in it is lost."""

from __future__ import annotations

import os
import resource
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.program.settings.airflow_settings import BASE_LOG_FOLDER
from edge_mqtt.broker_bridge.program.settings.sources import Found, Snapshot
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store
from edge_mqtt.worker import cli
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.jobs.spool import MIGRATIONS, Spool
from edge_mqtt.worker.launcher.forked import Airflow
from tests.support.worker_lab import task_job


class NoProcess:
    """Stands for the launcher, which takes seconds to start and has no part in this."""

    def __init__(self, *_: object) -> None:
        pass

    def kill(self) -> None:
        pass

    async def wait_ready(self) -> dict[str, str]:
        return {}

    async def stop(self) -> None:
        pass


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    store = Store(tmp_path / "certs")
    store.create(hosts=["localhost"], force=False, now=datetime.now(UTC))
    identity = Identity(Role.WORKER, "lab-1")
    store.issue(identity, force=False, now=datetime.now(UTC))
    return store.folder(identity)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state folder with a job in its spool."""
    folder = tmp_path / "state"
    (folder / "runs").mkdir(parents=True)
    spool = Spool.open(folder / "spool.db")
    spool.store_job(LocalJob.from_assignment(task_job("hello")))
    spool.close()
    return folder


def jobs_in(spool: Path) -> int:
    opened = Spool.open(spool)
    count = len(opened.load_jobs())
    opened.close()
    return count


def aside(path: Path) -> None:
    path.rename(path.with_name("aside"))


def file_for_folder(state: Path) -> None:
    (state / "runs").rmdir()
    (state / "runs").touch()


def folder_for_lock(state: Path) -> None:
    (state / "lock").mkdir()


def folder_for_socket(state: Path) -> None:
    (state / "api.sock").mkdir()


def folder_for_spool(state: Path) -> None:
    aside(state / "spool.db")
    (state / "spool.db").mkdir()


def damaged_spool(state: Path) -> None:
    aside(state / "spool.db")
    (state / "spool.db").write_bytes(b"no database" * 1000)


def newer_spool(state: Path) -> None:
    raw = sqlite3.connect(state / "spool.db")
    raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    raw.close()


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Snapshot({str(BASE_LOG_FOLDER): Found(text="/logs")})
    airflow = Airflow(settings=settings, open_files=frozenset())
    monkeypatch.setattr(cli, "loaded_airflow", lambda: nullcontext(airflow))
    monkeypatch.setattr(cli, "ForkedLauncher", NoProcess)
    monkeypatch.setattr(cli, "LauncherClient", NoProcess)
    monkeypatch.setattr(cli, "log_to_stderr", lambda *_: None)


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            file_for_folder,
            "the state folder cannot be used, {state}/runs is a file, not a folder: choose another --state-dir",
        ),
        (folder_for_lock, "the state folder cannot be used, {state}/lock cannot be written: Is a directory: choose"),
        (folder_for_socket, "there can be no socket at {state}/api.sock: Is a directory. Check --state-dir"),
        (folder_for_spool, "the spool {state}/spool.db cannot be opened: Is a directory"),
        (damaged_spool, "the spool {state}/spool.db is damaged: file is not a database. Move the file away and"),
        (newer_spool, "{state}/spool.db was written by a newer edge-worker: upgrade this one, or give it another"),
    ],
)
def test_unusable_state_folder_is_one_line_and_exit_code_2(
    state: Path, certs: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], None], says: str
) -> None:
    spoil(state)
    before = (state / "aside").exists() or (state / "spool.db").read_bytes()
    code = cli.main(["--bridge", "wss://localhost:1/mqtt", "--certs", str(certs), "--state-dir", str(state)])
    assert code == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edge-worker: {says.format(state=state)}")
    assert before == ((state / "aside").exists() or (state / "spool.db").read_bytes())


@pytest.mark.usefixtures("no_launcher")
def test_spool_that_another_program_holds_is_one_line_and_nothing_is_lost(
    state: Path, certs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = sqlite3.connect(state / "spool.db", isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    code = cli.main(["--bridge", "wss://localhost:1/mqtt", "--certs", str(certs), "--state-dir", str(state)])
    other.close()
    assert code == ExitCode.USAGE
    (line,) = capsys.readouterr().err.splitlines()
    assert "database is locked" in line
    assert jobs_in(state / "spool.db") == 1


def test_full_disk_at_the_start_is_one_line_and_exit_code_2(tmp_path: Path, certs: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # Airflow writes one if there is none.
    (home / "airflow.cfg").touch()

    def fill_the_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    arguments = ["--bridge", "wss://localhost:1/mqtt", "--certs", str(certs), "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(
        [sys.executable, "-B", "-m", "edge_mqtt.worker", *arguments],
        env={**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "false"},
        preexec_fn=fill_the_disk,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == ExitCode.USAGE
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"edge-worker: the spool {tmp_path}/state/spool.db cannot be")
