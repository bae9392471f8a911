"""A worker's parts around a spool on disk, for tests; the launcher is one that only remembers."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from edge_mqtt.broker_bridge.protocol.codec import read
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Assign, JobSpec, Message, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.worker.bridge.assignments import Assignments
from edge_mqtt.worker.bridge.results import Results
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.errors import LauncherError
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link, WorkerAddress
from edge_mqtt.worker.logs.shipper import LogShipper
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.timing import WorkerTiming

ADDRESS = WorkerAddress(name=WorkerName("w"), incarnation="i", topics=Topics())
JOB_ID = JobId("j")


@asynccontextmanager
async def connected_link() -> AsyncIterator[Link]:
    """A link on which nothing listens."""
    link = Link(MessageChannel(MemoryTransport(MemoryBroker(), "worker:w")), ADDRESS)
    link.start()
    yield link
    link.stop()


class Scene:
    """A worker's parts around a spool on disk; the launcher is one that only remembers."""

    def __init__(self, folder: Path, timing: WorkerTiming | None = None) -> None:
        self.spool = Spool.open(folder / "spool.db")
        self.spool._connection.execute("PRAGMA busy_timeout = 10")
        self.path = folder / "spool.db"
        self.jobs = JobStore(self.spool)
        self._broker = MemoryBroker()
        link = Link(MessageChannel(MemoryTransport(self._broker, "worker:w")), ADDRESS)
        link.start()
        link.ready = True
        plan = RunPlan(
            worker="w",
            concurrency=1,
            runs_dir=folder,
            socket_path=folder / "api.sock",
            base_log_folder=folder / "logs",
        )
        self.requests: list[RunRequest] = []
        self.requested = asyncio.Event()
        self.launcher_gone = False
        #: The supervisor's, once it is forked.
        self.pid: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        logs = LogShipper(link, plan.log_file)
        self.results = Results(self.jobs, link, logs, plan, timing)
        self.supervisors = Supervisors(plan, self.jobs, cast("Any", self), self, timing)
        self.assignments = Assignments(
            self.jobs,
            link,
            self.supervisors,
            self.results,
            logs,
            queues=("q",),
            draining=lambda: False,
            timing=timing,
        )

    # ------------------------------------------------------------ launcher, RunEvents

    async def launch(self, request: RunRequest) -> int:
        self.requests.append(request)
        self.requested.set()
        if self.launcher_gone:
            raise LauncherError("the launcher process is gone")
        return await asyncio.shield(self.pid)

    def follow_launch(self, job: LocalJob) -> None:
        pass

    async def report_exit(self, job: LocalJob, outcome: RunOutcome) -> None:
        pass

    async def give_back_job(self, job: LocalJob, reason: str) -> None:
        await self.assignments.give_back_job(job, reason)

    async def fail_job(self, job: LocalJob, reason: str) -> None:
        await self.results.report_unstarted(job, reason)

    # ------------------------------------------------------------ the bridge

    @property
    def said(self) -> list[Message]:
        """What the bridge was told, in order."""
        return [read(packet.payload) for packet in self._broker.published]

    # ------------------------------------------------------------ the disk

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let another program write to the spool's file for a while."""
        other = sqlite3.connect(self.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
        other.close()


def play(folder: Path, scenario: Callable[[Scene], Awaitable[None]], *, timing: WorkerTiming | None = None) -> None:
    async def run() -> None:
        scene = Scene(folder, timing)
        await scenario(scene)
        await scene.supervisors.close()
        scene.jobs.close()

    asyncio.run(asyncio.wait_for(run(), 30))


@asynccontextmanager
async def meanwhile(*works: Awaitable[None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Let works go on meanwhile."""
    tasks = [asyncio.ensure_future(work) for work in works]
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def assignment(fence: int = 1) -> Assign:
    workload = {"ti": {"id": "x"}, "bundle_info": {"name": "b"}, "dag_rel_path": "a.py"}
    spec = JobSpec(job_id=JOB_ID, type=WorkloadType.TASK, queue="q", workload=workload)
    return Assign(fence=Fence(fence), job=spec, lease_s=60.0)


def launched_job(assign: Assign | None = None) -> LocalJob:
    """Return a job that is launched, as it is to be stored."""
    job = LocalJob.from_assignment(assign or assignment())
    return job.moved_to(LocalJobState.LAUNCHED, secret="s", launch="4e5f6071")


class Log(logging.Handler):
    """Hears what the worker logs, on its loop."""

    def __init__(self) -> None:
        super().__init__()
        self._actions: list[str] = []
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self._actions.append(getattr(record, "action", ""))
        self._news.set()

    async def heard(self, action: str, count: int) -> None:
        """Wait until an event was logged so often."""
        while self._actions.count(action) < count:
            self._news.clear()
            await self._news.wait()


def hear_worker(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """Be a fixture's body: hears what the worker logs."""
    caplog.set_level(logging.INFO, "edge_mqtt.worker")
    log = Log()
    logging.getLogger("edge_mqtt.worker").addHandler(log)
    yield log
    logging.getLogger("edge_mqtt.worker").removeHandler(log)
