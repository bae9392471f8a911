"""A PostgreSQL server of one's own: data folder, port and password are new, and nothing outlives it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import secrets
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from deploy.quickstart.errors import StackError
from deploy.quickstart.ports import HOST

#: Where Debian's packages put the programs, one folder a version.
_VERSIONS = Path("/usr/lib/postgresql")
_USER = "airflow"
#: What Airflow's synchronous and asynchronous connections are made with.
_DRIVERS = {"psycopg2": "psycopg2-binary", "asyncpg": "asyncpg"}
#: Seconds in which the server must accept connections, and end when asked.
_STARTUP_S = 60.0
_STOP_S = 20.0
#: Seconds that one question by psql may take.
_QUERY_S = 30.0


class PostgresMissing(StackError):
    """The server's programs or a driver are not installed."""


class PostgresFailed(StackError):
    """The server did not start."""


def programs() -> Path:
    """Return the folder of the newest server's programs.

    :raises PostgresMissing: there is none, or Airflow has no driver for it.
    """
    folders = [path.parent for path in _VERSIONS.glob("*/bin/postgres")]
    if not folders:
        raise PostgresMissing("PostgreSQL is not installed: apt-get install postgresql")
    missing = [package for module, package in _DRIVERS.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise PostgresMissing(f"Airflow has no driver for PostgreSQL: pip install {' '.join(missing)}")
    return max(folders, key=lambda folder: float(folder.parent.name))


class Postgres:
    """A server that runs while the block does."""

    def __init__(self, directory: Path, *, fsync: bool = False) -> None:
        """Describe it; nothing is written before the block begins.

        :param directory: must not exist; the server's user must be able to reach its parent.
        :param fsync: wait for the disk at each commit; what a killed server has written, the system has without it.
        """
        self._directory = directory
        self._programs = programs()
        self._fsync = fsync
        self._password = secrets.token_urlsafe(12)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    @property
    def pid(self) -> int:
        """The process id of the last start.

        :raises PostgresFailed: there was none.
        """
        if self._process is None:
            raise PostgresFailed("PostgreSQL was never started")
        return self._process.pid

    @property
    def url(self) -> str:
        """The database, as Airflow's ``sql_alchemy_conn``."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the address of a database of its, as SQLAlchemy wants it."""
        return f"postgresql+psycopg2://{_USER}:{self._password}@{HOST}:{self.port}/{database}"

    @property
    def output(self) -> Path:
        """What the server has written."""
        return self._directory / "server.log"

    def __enter__(self) -> Self:
        """Start it.

        :raises PostgresFailed: it does not come up.
        """
        self._directory.mkdir(mode=0o700)
        (self._directory / "password").write_text(self._password)
        identity = _identity()
        if identity:
            for path in (self._directory, self._directory / "password"):
                os.chown(path, identity["user"], identity["group"])
        try:
            self._create(identity)
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def create_database(self, name: str) -> None:
        """Make one more database.

        :raises PostgresFailed: it cannot be made.
        """
        command = [str(self._programs / "psql"), "-q", "-h", HOST, "-p", str(self.port), "-U", _USER, "postgres"]
        environment = {"PATH": os.defpath, "PGPASSWORD": self._password}
        made = subprocess.run(
            [*command, "-c", f'CREATE DATABASE "{name}"'],
            cwd="/",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_QUERY_S,
        )
        if made.returncode:
            raise PostgresFailed(f"no database {name}: {made.stderr.strip()}")

    def kill(self) -> None:
        """Kill the server and every process of its: no connection is closed in order, no file is."""
        if self._process is None:
            return
        server = psutil.Process(self._process.pid)
        for process in (server, *server.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait(_STOP_S)

    def _create(self, identity: dict[str, Any]) -> None:
        made = subprocess.run(
            [
                *(str(self._programs / "initdb"), "--pgdata", str(self._directory / "data"), "--no-sync"),
                *("--username", _USER, "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
                *("--pwfile", str(self._directory / "password")),
            ],
            cwd="/",
            env={"PATH": os.defpath},
            capture_output=True,
            text=True,
            check=False,
            **identity,
        )
        if made.returncode:
            raise PostgresFailed(f"initdb failed: {made.stderr.strip().splitlines()[-1:]}")

    def start(self) -> None:
        """Start the server and return when it accepts connections; for the first time, or after :meth:`kill`.

        :raises PostgresFailed: it does not come up.
        """
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [
                    *(str(self._programs / "postgres"), "-D", str(self._directory / "data")),
                    # No unix socket: its folder is the system's.
                    *("-h", HOST, "-p", str(self.port), "-k", "", "-c", f"fsync={'on' if self._fsync else 'off'}"),
                ],
                cwd="/",
                env={"PATH": os.defpath, "LANG": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **_identity(),
            )
        deadline = time.monotonic() + _STARTUP_S
        while not self._accepts():
            if self._process.poll() is not None or time.monotonic() > deadline:
                last = self.output.read_text(errors="replace").strip().splitlines()[-1:]
                raise PostgresFailed(f"PostgreSQL did not start: {last}")
            time.sleep(0.1)

    def _accepts(self) -> bool:
        probe = [str(self._programs / "pg_isready"), "-q", "-h", HOST, "-p", str(self.port)]
        return subprocess.run(probe, check=False).returncode == 0

    def stop(self) -> None:
        """Stop the server in order: connections are closed, files too. Safe to repeat."""
        if self._process is None or self._process.poll() is not None:
            return
        # SIGINT is the server's "fast shutdown": clients are disconnected, not waited for.
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_STOP_S)


def _identity() -> dict[str, Any]:
    """Return whose the server's process is: the server refuses to be root's."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise PostgresMissing("there is no user postgres to run the server as: apt-get install postgresql") from None
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
