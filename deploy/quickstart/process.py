"""One process of the stack: started in a session of its own, watched, and stopped with all it has begotten."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from deploy.quickstart.errors import ServiceFailed

#: The environment variable by which every process of a stack, however far removed, is known as its own.
MARKER = "EDGE_STACK"
#: Lines of a service's output that are shown when it fails.
LAST_LINES = 20
#: Seconds between two looks at something that is waited for.
POLL_S = 0.05


class Service:
    """A process with a name, an output file and a way to tell that it is ready."""

    def __init__(
        self,
        *,
        name: str,
        argv: Sequence[str],
        environment: Mapping[str, str],
        directory: Path,
        output: Path,
        ready: Callable[[Service], bool],
        startup_s: float,
        stop_s: float,
    ) -> None:
        """Describe it; :meth:`start` starts it.

        :param environment: all of it; nothing is inherited.
        :param output: where its standard output and error go.
        :param ready: tells whether it is up; asked until it is.
        :param startup_s: seconds in which it must be up.
        :param stop_s: seconds that it has for a clean end.
        """
        self.name = name
        self.argv = list(argv)
        self.startup_s = startup_s
        self.stop_s = stop_s
        #: Unix time of the last start.
        self.started_at = 0.0
        #: Seconds that the last start took until ready; None while it is not.
        self.took_s: float | None = None
        self._environment = dict(environment)
        self._directory = directory
        self._output = output
        self._output_start = 0
        self._ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the last start."""
        if self._process is None:
            raise ServiceFailed(self.name, "was never started", [])
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The exit code of the last start (negative: the signal that killed it); None while it runs."""
        return None if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start it and return at once."""
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._output_start = self._output.stat().st_size if self._output.exists() else 0
        self.started_at = time.time()
        self.took_s = None
        with self._output.open("ab") as output:
            self._process = subprocess.Popen(
                self.argv,
                env=self._environment,
                cwd=self._directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def check(self) -> bool:
        """Tell whether it is up, noting when it first was.

        :raises ServiceFailed: it is dead, or had its time.
        """
        if self.took_s is not None:
            return True
        if not self.alive:
            raise ServiceFailed(self.name, _obituary(self.exit_code), self.last_lines())
        waited = time.time() - self.started_at
        if self._ready(self):
            self.took_s = waited
            return True
        if waited > self.startup_s:
            raise ServiceFailed(self.name, f"was not ready within {self.startup_s:g} s", self.last_lines())
        return False

    def output(self) -> str:
        """Return everything it has written since its first start."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def output_since_start(self) -> str:
        """Return what it has written since its last start."""
        if not self._output.exists():
            return ""
        with self._output.open("rb") as stream:
            stream.seek(self._output_start)
            return stream.read().decode(errors="replace")

    def last_lines(self) -> list[str]:
        """Return the end of its output."""
        return self.output_since_start().splitlines()[-LAST_LINES:]

    def processes(self) -> list[psutil.Process]:
        """Return it and its living descendants."""
        try:
            main = psutil.Process(self.pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def send(self, signal_number: int) -> None:
        """Send its main process a signal, if it runs."""
        if self._process is not None:
            self._process.send_signal(signal_number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False when it runs on."""
        if self._process is None:
            return True
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True


def stop_services(services: Iterable[Service]) -> None:
    """End services that may end side by side: SIGTERM, and SIGKILL to those that had their time.

    What they leave behind is the sweep's (:func:`sweep`).
    """
    running = [service for service in services if service.alive]
    for service in running:
        service.send(signal.SIGTERM)
    began = time.monotonic()
    for service in running:
        if not service.wait(max(0.0, began + service.stop_s - time.monotonic())):
            service.send(signal.SIGKILL)
            service.wait(5.0)


def marked(marker: str) -> list[psutil.Process]:
    """Return every process that carries ``marker`` in its environment, and those they have begotten."""
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARKER) == marker:
                found[process.pid] = process
                found |= {child.pid: child for child in process.children(recursive=True)}
    found.pop(os.getpid(), None)
    return [process for process in found.values() if _runs(process)]


def sweep(marker: str, *, grace_s: float) -> int:
    """End every process that carries ``marker``: SIGTERM, after ``grace_s`` SIGKILL; return how many there were."""
    seen: set[int] = set()
    deadline = time.monotonic() + grace_s
    while left := marked(marker):
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                if time.monotonic() > deadline:
                    process.kill()
                elif process.pid not in seen:
                    process.terminate()
        seen |= {process.pid for process in left}
        psutil.wait_procs(left, timeout=POLL_S)
    return len(seen)


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _obituary(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"ended with exit code {exit_code}"
