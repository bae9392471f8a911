"""Plays a scenario on a worker with real supervisors and real tasks; only the bridge is made of memory."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil
import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.messages import Presence
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.worker.app import Worker
from edge_mqtt.worker.core.drain import StopSignal
from edge_mqtt.worker.launcher.spawned import SpawnedLauncher
from edge_mqtt.worker.runs.launcher_client import LauncherClient
from tests.support.worker_lab import FakeBridge, kill_supervisors, make_airflow_home, make_worker, settings_for


class Lab:
    """One worker, its bridge, and the folder that they share with the Dag's tasks."""

    def __init__(self, tmp_path: Path, bridge: FakeBridge, worker: Worker) -> None:
        self.home = tmp_path / "home"
        self.state = tmp_path / "state"
        self.marks = tmp_path / "marks"
        self.until_file = tmp_path / "until"
        self.bridge = bridge
        self.worker = worker

    @property
    def times_run(self) -> int:
        """How often user code was run."""
        return len(self.marks.read_text().splitlines()) if self.marks.exists() else 0

    def local_log(self, log_path: str | None) -> bytes:
        """Return the worker's own log file."""
        assert log_path is not None
        return (self.home / "logs" / log_path).read_bytes()

    async def local_line(self, log_path: str | None, text: str) -> None:
        """Wait until a line is in the worker's own log file."""

        def wait() -> None:
            while text.encode() not in self.local_log(log_path):
                time.sleep(0.02)

        async with asyncio.timeout(30):
            await asyncio.to_thread(wait)

    async def marked(self) -> None:
        """Wait until user code has left its mark."""

        def wait() -> None:
            while not self.times_run:
                time.sleep(0.02)

        async with asyncio.timeout(60):
            await asyncio.to_thread(wait)

    async def log_line(self, job_id: str, text: str) -> None:
        """Wait until a line has arrived in the centre."""
        await self.bridge.until(lambda: text.encode() in self.bridge.logs.get(job_id, b""))

    async def whole_log(self, job_id: str, size: int) -> None:
        """Wait until the centre has all of a log."""
        await self.bridge.until(lambda: len(self.bridge.logs.get(job_id, b"")) == size)


Scenario = Callable[[Lab], Awaitable[None]]


def fresh_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a fixture's body: an Airflow home in ``tmp_path``, and nothing that runs on afterwards."""
    monkeypatch.setenv("AIRFLOW_HOME", "")
    monkeypatch.setenv("AIRFLOW__CORE__LOAD_EXAMPLES", "")
    monkeypatch.setenv("LAB_MARKS", str(tmp_path / "marks"))
    monkeypatch.setenv("LAB_UNTIL", str(tmp_path / "until"))
    make_airflow_home(tmp_path / "home")
    yield
    kill_supervisors(tmp_path / "state")


def play(
    tmp_path: Path,
    scenario: Scenario,
    *,
    ask: StopSignal | None = StopSignal.INTERRUPT,
    settings: Mapping[str, Any] = MappingProxyType({}),
    **bridge: object,
) -> ExitCode:
    """Run a worker through a scenario; then ask it to end, and return its exit code."""
    process = SpawnedLauncher()

    async def run() -> ExitCode:
        broker = MemoryBroker()
        ours = settings_for(tmp_path / "home", tmp_path / "state", **settings)
        lock = ours.state.prepare()
        launcher = LauncherClient(process)
        await launcher.wait_ready()
        lab = Lab(tmp_path, FakeBridge(broker, **bridge), make_worker(broker, ours, launcher))  # type: ignore[arg-type]  # fields of it
        running = asyncio.create_task(lab.worker.run())
        try:
            await lab.bridge.until(lambda: lab.bridge.of(Presence))
            await scenario(lab)
            if ask is not None:
                lab.worker.request_stop(ask)
            return await asyncio.wait_for(running, 30)
        finally:
            os.close(lock)
            if not running.done():
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    return asyncio.run(run())


def supervisor_of(state: Path, job_id: str = "") -> psutil.Process:
    """Wait for the supervisor that is at work for this state folder, on the job if one is named."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in filter(Path.exists, (state / "runs").glob(f"{job_id}*.pid")):
            if text := path.read_text():
                return psutil.Process(int(text.split()[0]))
        time.sleep(0.05)
    raise AssertionError("no supervisor was started")


def wait_until_ended(process: psutil.Process) -> None:
    """Wait until a process is gone, or nobody is left to bury it."""
    deadline = time.monotonic() + 60
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"{process} goes on"
        time.sleep(0.05)
