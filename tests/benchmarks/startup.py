"""How long a bridge takes to come back with many live jobs in its ledger: from command to first healthy answer.

Compared with an empty ledger, because most of a start is Python's imports; and the loading alone. The seconds of CPU
say the same on a machine that has other things to do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from deploy.quickstart.ports import HOST
from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Outcome, WorkloadType
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store

COMMAND = str(Path(sys.executable).parent / "edge-bridge")
#: Workers that hold the jobs, and queues that they are in.
WORKERS = 500
QUEUES = 50
#: Characters of a workload: what Airflow's own has for a small task, and some.
WORKLOAD_CHARS = 2_000
#: Jobs written to the ledger at once.
BATCH = 1_000
PATIENCE_S = 120.0


def make_jobs(count: int) -> Iterator[Job]:
    """Yield jobs of every state: in four, one waits, two run, and one has ended and nobody has heard of it."""
    for number in range(count):
        state = (CentralJobState.QUEUED, CentralJobState.RUNNING, CentralJobState.RUNNING, CentralJobState.FINISHED)[
            number % 4
        ]
        finished = state is CentralJobState.FINISHED
        spec = JobSpec(
            job_id=JobId(str(uuid.uuid4())),
            type=WorkloadType.TASK,
            queue=f"queue-{number % QUEUES}",
            dag_id="bench",
            run_id=f"manual__{number // 100}",
            task_id="task",
            map_index=number % 100,
            try_number=1,
            log_path=f"dag_id=bench/run_id=manual__{number // 100}/map_index={number % 100}/attempt=1.log",
            workload={"ti": {"id": str(uuid.uuid4())}, "text": "x" * WORKLOAD_CHARS},
        )
        yield Job(
            spec=spec,
            executor=ExecutorName("main"),
            lease_s=935.0,
            token=None if finished else "e" * 500,
            state=state,
            worker=None if state is CentralJobState.QUEUED else WorkerName(f"worker-{number % WORKERS}"),
            accepted=state is CentralJobState.RUNNING,
            starter="host:1" if state is CentralJobState.RUNNING else None,
            sequence=number + 1,
            outcome=Outcome.SUCCESS if finished else None,
        )


def fill(url: str, count: int) -> None:
    """Put jobs into the ledger."""
    ledger = SqlLedger(url)
    jobs = make_jobs(count)
    while batch := list(islice(jobs, BATCH)):
        ledger.commit(batch)
    ledger.close()


def loading(url: str) -> tuple[int, float]:
    """Return how many jobs the dispatcher has after loading the ledger, and the seconds that this took."""

    async def load() -> tuple[int, float]:
        began = time.perf_counter()
        ledger = AsyncLedger(SqlLedger(url))
        service = DispatchService(Dispatcher(DispatchSettings()), ledger, ChangeFeed())
        live = await service.load()
        seconds = time.perf_counter() - began
        await ledger.close()
        return live, seconds

    return asyncio.run(load())


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def start(folder: Path, certs: Path, url: str) -> tuple[float, float]:
    """Return the seconds from the bridge's command to its first healthy answer, and the seconds of CPU that it took.

    :raises RuntimeError: it ended, or did not answer in time.
    """
    port = free_port()
    arguments = [*("--certs", str(certs)), *("--host", HOST), *("--port", "0"), *("--health-port", str(port))]
    with (folder / "bridge.log").open("ab") as output:
        began = time.perf_counter()
        process = subprocess.Popen(
            [COMMAND, *arguments, "--ledger-url", url],
            env={**os.environ, "AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while time.perf_counter() - began < PATIENCE_S and process.poll() is None:
            try:
                httpx.get(f"http://{HOST}:{port}/healthz", trust_env=False).raise_for_status()
            except httpx.HTTPError:
                time.sleep(0.01)
                continue
            seconds = time.perf_counter() - began
            used = psutil.Process(process.pid).cpu_times()
            return seconds, used.user + used.system
        raise RuntimeError(f"the bridge did not start: see {output.name}")
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000, help="live jobs in the ledger")
    parser.add_argument("--rounds", type=int, default=3, help="starts with each ledger")
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="edge-bench-") as made:
        folder = Path(made)
        store = Store(folder / "certs")
        store.create(hosts=[HOST], force=False, now=datetime.now(UTC))
        certs = store.folder(Identity(Role.BRIDGE, "bridge"))
        table = Table(title=f"start of the bridge on {platform.machine()}, {os.cpu_count()} cores")
        for column in ("live jobs", "loading, s", "command to healthy, s", "of CPU, s"):
            table.add_column(column, justify="right")
        for count in (0, options.jobs):
            url = f"sqlite:///{folder}/ledger-{count}/ledger.db"
            fill(url, count)
            live, seconds = loading(url)
            starts = [start(folder, certs, url) for _ in range(options.rounds)]
            walls, cpus = (" ".join(f"{each:.2f}" for each in column) for column in zip(*starts, strict=True))
            table.add_row(str(live), f"{seconds:.2f}", walls, cpus)
        console.print(table)


if __name__ == "__main__":
    main()
