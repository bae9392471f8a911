"""The worker's program: ``edge_mqtt.worker.app`` itself, with the simulation in the place of the operating system.

Not real: the socket that supervisors call (they call what answers there), the launcher's process, and whatever asks
the kernel about processes (``system.py``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.protocol.limits import MAX_INTEGER
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.worker.api.server import ExecutionApiServer
from edge_mqtt.worker.app import Worker as App
from edge_mqtt.worker.config import StateDir, WorkerSettings
from edge_mqtt.worker.core.drain import StopSignal
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.errors import LauncherError, SpoolError
from edge_mqtt.worker.ipc.api_contract import REQUEST_ID_HEADER
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.jobs.spool import MIGRATIONS, Spool
from edge_mqtt.worker.link import WorkerAddress
from edge_mqtt.worker.timing import WorkerTiming
from tests.simulation.plan import KEEPING_QUEUE, PATIENT_QUEUE
from tests.simulation.programs import Now, Program
from tests.simulation.transport import SimulatedTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from edge_mqtt.broker_bridge.protocol.ids import JobId
    from tests.simulation.machine import Machine
    from tests.simulation.world import World

#: Real workers look at task logs twenty times as often, which proves nothing more.
TIMING = WorkerTiming(log_look_s=1.0)
#: From here on an answer is an error.
ERROR: Final = 400
QUEUES = ("lab", PATIENT_QUEUE, KEEPING_QUEUE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What a supervisor's call is answered."""

    status: int
    body: bytes

    @property
    def reason(self) -> str:
        """Airflow's, or the bridge's, for a refusal; empty when there is none."""
        try:
            return str(json.loads(self.body)["detail"]["reason"])
        except (ValueError, TypeError, KeyError):
            return ""


class Worker(Program):
    """One worker, over all its restarts."""

    kind = "worker"

    def __init__(self, world: World, machine: Machine) -> None:
        super().__init__(world, machine.computer)
        self.machine = machine
        self.name = WorkerName(machine.name)
        identity = Identity(Role.WORKER, machine.name)
        topics = world.topics
        self.wire = world.network.wire(
            identity, (topics.assignments(self.name), topics.control(self.name), topics.rpc_response(self.name))
        )
        self.spool: RecordedSpool | None = None
        self.api: ExecutionApiServer | None = None
        self.app: App | None = None
        #: Whether the spool's disk takes nothing.
        self.disk_is_full = False
        self._is_draining = False

    async def main(self) -> None:
        """Run the program once."""
        self.api, self.app, self._is_draining = None, None, False
        incarnation = f"i{self.world.count()}"
        address = WorkerAddress(name=self.name, incarnation=incarnation, topics=self.world.topics)
        transport = SimulatedTransport(self.wire, self.life, incarnation, step=self.step, will=address.will)
        self.app = App(
            self._settings(),
            address,
            transport,
            Launcher(self),  # type: ignore[arg-type]  # a stand-in
            timing=TIMING,
        )
        await self.app.run()

    def _settings(self) -> WorkerSettings:
        return WorkerSettings(
            bridge_url="wss://bridge/mqtt",
            certs=self.machine.state,
            queues=QUEUES,
            concurrency=self.world.plan.concurrency,
            state=StateDir(path=self.machine.state),
            base_log_folder=self.machine.logs,
        )

    def drain(self) -> None:
        """Have it finish what runs, and end. Only once: the second time would mean to stop what runs."""
        if self.life.alive and self.app is not None and self.loop is not None and not self._is_draining:
            self._is_draining = True
            self.loop.call_soon(self.app.request_stop, StopSignal.INTERRUPT)

    def ended(self, task: asyncio.Task[None]) -> None:
        """Start it again when it has drained: somebody wanted it upgraded."""
        if task.exception() is not None:
            super().ended(task)
        else:
            self.world.restart_later(self, self.world.chance.uniform(0.5, 10.0))

    def kill(self) -> None:
        """Die at once."""
        super().kill()
        self.wire.stop()
        if self.spool is not None:
            self.spool.close()
        self.world.outages.look()

    def held(self) -> dict[JobId, LocalJob]:
        """Return the jobs that its disk has."""
        return {} if self.spool is None else self.spool.jobs

    def call(
        self, secret: str, request_id: str, method: str, target: str, *, body: bytes, answer: Callable[[Answer], None]
    ) -> bool:
        """Take a supervisor's call; False while there is nobody to take it."""
        if not self.life.alive or self.api is None or self.loop is None:
            return False
        headers = [
            (b"authorization", f"Bearer {secret}".encode()),
            (REQUEST_ID_HEADER.encode(), request_id.encode()),
        ]
        scope = {
            "type": "http",
            "method": method,
            "raw_path": f"/execution/{target}".encode(),
            "query_string": b"",
            "headers": headers,
        }
        self.loop.create_task(self._serve(self.api, scope, body, answer))
        return True

    async def _serve(
        self, api: ExecutionApiServer, scope: dict[str, Any], body: bytes, answer: Callable[[Answer], None]
    ) -> None:
        statuses: list[int] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(event: Any) -> None:
            if "status" in event:
                statuses.append(event["status"])
            else:
                answer(Answer(status=statuses[0], body=event["body"]))

        await api.app(scope, receive, send)


class RecordedSpool(Spool):
    """The real spool, telling the simulation what is on the disk."""

    @classmethod
    def open(cls, path: Path, migrations: Sequence[str] = MIGRATIONS) -> Self:
        """Open it for the worker whose code runs."""
        spool = super().open(path, migrations)
        worker = Now.program
        assert isinstance(worker, Worker)
        worker.spool = spool
        spool.machine = worker.machine
        spool.jobs = {job.job_id: job for job in spool.load_jobs()}
        return spool

    machine: Machine
    jobs: dict[JobId, LocalJob]

    def home(self) -> str:
        """Return what tells this disk from every other: not a random word, for a seed to replay exactly."""
        return f"{self.machine.name}.{self.machine.state.parent.name}"

    def store_job(self, job: LocalJob) -> None:
        """Store."""
        self._need_room()
        if job.state is LocalJobState.FINISHED:
            self._check_over(job)
        super().store_job(job)
        self.jobs[job.job_id] = job
        if job.state is LocalJobState.LAUNCHED:
            self.machine.bound_log(job, MAX_INTEGER)
        elif job.result is not None:
            self.machine.bound_log(job, job.log_base + job.result.log_size)

    def delete_job(self, job_id: JobId) -> None:
        """Forget."""
        self._need_room()
        if job_id in self.jobs:
            self._check_over(self.jobs[job_id])
        super().delete_job(job_id)
        self.jobs.pop(job_id, None)

    def _check_over(self, job: LocalJob) -> None:
        if self.machine.is_running(job):
            self.machine.world.promises.given_away(job.job_id)

    def _need_room(self) -> None:
        if self.machine.worker.disk_is_full:
            raise SpoolError("the spool cannot be written: the disk is full")


class Launcher:
    """Stands in for the launcher: starts simulated supervisors, and is sometimes gone when it is needed."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self.gone = asyncio.Event()

    async def launch(self, request: RunRequest) -> int:
        """Start a supervisor."""
        worker, world = self._worker, self._worker.world
        await asyncio.sleep(world.chance.uniform(0.01, 0.1))
        worker.step()
        fails = world.chance.random() < world.launcher_fails
        if fails and world.chance.random() < 0.5:
            raise LauncherError("the launcher process is gone")
        pid = worker.machine.fork(request).pid
        worker.step()
        await asyncio.sleep(world.chance.uniform(0.001, 0.1))
        if fails:
            raise LauncherError("the launcher process is gone")
        return pid

    async def wait_exit_code(self, pid: int, _timeout: float) -> int | None:
        """Return the exit code of a process that was killed."""
        process = self._worker.machine.process(pid)
        return None if process is None or process.signal is None else -process.signal

    async def stop(self) -> None:
        """Let it go."""
