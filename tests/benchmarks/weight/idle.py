"""Our programs at rest: their start, and what they use while nothing happens."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from deploy.quickstart.ports import HOST, Ports
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store
from tests.benchmarks.weight.proc import Use, family, proportional_mb, used

PATIENCE_S = 120.0
POLL_S = 0.005
#: Seconds after the last start in which programs settle down.
SETTLE_S = 5.0
BRIDGE = Identity(Role.BRIDGE, "bridge")
WORKER, OPERATOR = Identity(Role.WORKER, "idle"), Identity(Role.OPERATOR, "ann")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rest:
    """A program at rest; of a worker, its launcher is told apart."""

    name: str
    #: Seconds from the command to the sign of life that was waited for, and of CPU until then.
    ready_s: float
    ready_cpu_s: float
    memory_mb: float
    #: What it used while it was watched.
    use: Use


@dataclass(slots=True)
class _Program:
    name: str
    process: subprocess.Popen[bytes]
    ready_s: float
    ready_cpu_s: float


class _Answers(BaseHTTPRequestHandler):
    """Says 501 to everything, and nothing here."""

    def log_message(self, format: str, *_arguments: object) -> None:  # noqa: A002 -- the library's name
        """Keep quiet."""


class Site:
    """A bridge, a worker and an operator's edge-logs -f, with nothing to do."""

    def __init__(self, folder: Path, *, scripts: Path, worker_scripts: Path) -> None:
        self._folder = folder
        self._scripts = scripts
        self._worker_scripts = worker_scripts
        self._ports = Ports.free()
        self._store = Store(folder / "certs")
        now = datetime.now(UTC)
        self._store.create(hosts=[HOST], force=False, now=now)
        for identity in (WORKER, OPERATOR):
            self._store.issue(identity, force=False, now=now)

    def at_rest(self, seconds: float) -> list[Rest]:
        """Start everything, watch it for so long, and stop it."""
        url = ("--bridge", f"wss://{HOST}:{self._ports.bridge}/mqtt")
        bridge: tuple[str, ...] = (
            *("edge-bridge", "--host", HOST, "--port", str(self._ports.bridge)),
            *("--health-host", HOST, "--health-port", str(self._ports.health), "--certs", self._certs(BRIDGE)),
        )
        worker = ("edge-worker", *url, "--certs", self._certs(WORKER), "--state-dir", str(self._folder / "state"))
        logs = ("edge-logs", *url, "--certs", self._certs(OPERATOR), "--all", "-f")
        with ExitStack() as stack:
            # Any answer will do: without one the bridge goes on asking for Airflow.
            airflow = stack.enter_context(ThreadingHTTPServer((HOST, self._ports.ui), _Answers))
            stack.callback(airflow.shutdown)
            Thread(target=airflow.serve_forever, name="airflow").start()
            bridge = (*bridge, "--execution-api-url", f"http://{HOST}:{self._ports.ui}/execution/")
            programs = [
                stack.enter_context(self._running(self._scripts, bridge, sign="bridge is ready")),
                stack.enter_context(self._running(self._worker_scripts, worker, sign="connected to")),
                stack.enter_context(self._running(self._scripts, logs, sign=None)),
            ]
            time.sleep(SETTLE_S)
            watched = {program.name: [program.process.pid] for program in programs}
            main, *launcher = family(programs[1].process.pid)
            watched |= {"edge-worker": [main], "its launcher": launcher}
            before = {name: used(pids) for name, pids in watched.items()}
            time.sleep(seconds)
            starts = {program.name: (program.ready_s, program.ready_cpu_s) for program in programs}
            return [
                Rest(
                    name=name,
                    ready_s=starts.get(name, (0.0, 0.0))[0],
                    ready_cpu_s=starts.get(name, (0.0, 0.0))[1],
                    memory_mb=proportional_mb(pids),
                    use=used(pids).since(before[name]),
                )
                for name, pids in watched.items()
            ]

    def _certs(self, identity: Identity) -> str:
        return str(self._store.folder(identity))

    @contextmanager
    def _running(self, scripts: Path, command: Sequence[str], *, sign: str | None) -> Iterator[_Program]:
        name = command[0]
        output = self._folder / f"{name}.log"
        home = self._folder / f"{name}-home"
        with output.open("wb") as stream:
            began = time.perf_counter()
            process = subprocess.Popen(
                [str(scripts / name), *command[1:]], env=environment(home), stdout=stream, stderr=subprocess.STDOUT
            )
        try:
            while sign is not None and sign not in output.read_text():
                if process.poll() is not None or time.perf_counter() - began > PATIENCE_S:
                    raise RuntimeError(f"{name} did not start: {output.read_text()}")
                time.sleep(POLL_S)
            ready_s = time.perf_counter() - began if sign else 0.0
            yield _Program(name, process, ready_s, used(family(process.pid)).cpu_s if sign else 0.0)
        finally:
            process.terminate()
            process.wait(PATIENCE_S)


def environment(home: Path) -> Mapping[str, str]:
    """Return the environment of a program with an Airflow home of its own."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "AIRFLOW_HOME": str(home / "airflow"),
        "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64,
        "PYTHONUNBUFFERED": "1",
    }


def help_cpu_s(script: Path, home: Path) -> float:
    """Return the seconds of CPU that ``script --help`` takes: those of every use of the command."""
    before = os.times()
    subprocess.run([str(script), "--help"], env=environment(home), stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def help_modules(script: Path, home: Path) -> int:
    """Return the number of modules that ``script --help`` loads."""
    command = [str(script.with_name("python")), "-X", "importtime", str(script), "--help"]
    done = subprocess.run(command, env=environment(home), capture_output=True, text=True, check=True)
    return done.stderr.count("import time:") - 1
