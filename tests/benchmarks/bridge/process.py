"""A real edge-bridge in a process of its own, and what it costs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

#: Seconds for the bridge's start.
START_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Usage:
    """What both sides have used since they began."""

    wall_s: float
    bridge_cpu_s: float
    load_cpu_s: float

    def __sub__(self, other: Usage) -> Usage:
        """Return what was used in between."""
        return Usage(
            self.wall_s - other.wall_s,
            self.bridge_cpu_s - other.bridge_cpu_s,
            self.load_cpu_s - other.load_cpu_s,
        )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class BridgeProcess:
    """A running bridge with an empty ledger.

    :param wrapper: runs the bridge's command line, such as a profiler.
    """

    def __init__(self, folder: Path, certificates: Path, wrapper: tuple[str, ...] = ()) -> None:
        self.port = _free_port()
        self.folder = folder
        self._log = folder / "bridge.log"
        command = [
            *(wrapper or (sys.executable,)),
            *("-m", "edge_mqtt.broker_bridge", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--health-port", str(_free_port()), "--certs", str(certificates)),
            *("--log-folder", str(folder / "logs"), "--ledger-url", f"sqlite:///{folder / 'ledger.db'}"),
            # Nobody there: these jobs make no calls.
            *("--presence-interval", "60", "--execution-api-url", f"http://127.0.0.1:{_free_port()}/execution"),
        ]
        environment = {
            **{name: value for name, value in os.environ.items() if name.startswith("PYTHON")},
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64,
        }
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=output)
        self._info = psutil.Process(self.process.pid)
        self._wait_ready()

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while "bridge is ready" not in self.log:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the bridge did not start: {self.log[-2000:]}")
            time.sleep(0.05)

    @property
    def log(self) -> str:
        """What the bridge has said."""
        return self._log.read_text()

    def usage(self) -> Usage:
        """Return what was used until now."""
        times = self._info.cpu_times()
        return Usage(time.perf_counter(), times.user + times.system, time.process_time())

    def memory(self) -> int:
        """Return the bridge's resident memory in bytes."""
        resident: int = self._info.memory_info().rss
        return resident

    def close(self) -> None:
        """Stop it."""
        self.process.terminate()
        self.process.wait(30)
