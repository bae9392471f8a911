"""A worker's surroundings for tests: an Airflow home with real Dags, and a bridge that answers from memory.

Also a program: ``python -m tests.support.worker_lab STATE_DIR SETTINGS [cut]`` runs a worker and its bridge in a
process of its own, so that a test can kill it. SETTINGS is a JSON object; with "cut" the bridge is out of reach. It
reads one message a line on stdin, an assignment or a cancel, and reports what the bridge sees on stdout.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    ApiResponse,
    Assign,
    Cancel,
    Finished,
    JobRef,
    LogAck,
    LogChunk,
    LogPosition,
    Message,
    Presence,
    PresenceAck,
    ResultAck,
    StartRequest,
    Welcome,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.worker.app import Worker
from edge_mqtt.worker.config import StateDir, WorkerSettings
from edge_mqtt.worker.core.drain import StopSignal
from edge_mqtt.worker.launcher.spawned import SpawnedLauncher
from edge_mqtt.worker.link import WorkerAddress
from edge_mqtt.worker.runs.launcher_client import LauncherClient
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.killing import kill_tree
from edge_mqtt.worker.system.process import ProcessIdentity
from tests.support.task_jobs import answer_json, run_context, task_spec
from tests.support.worker_dag import DAG_FILE

M = TypeVar("M", bound=Message)
T = TypeVar("T")

NAME = WorkerName("lab-1")
CLIENT_ID = f"worker:{NAME}"
TOPICS = Topics()


def make_airflow_home(home: Path) -> None:
    """Make a worker's Airflow home with one Dag."""
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "lab.py").write_text(DAG_FILE)
    os.environ["AIRFLOW_HOME"] = str(home)
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "false"


def kill_supervisors(state: Path) -> None:
    """Kill what a test has left running: a supervisor whose worker is gone waits for it until its lease ends."""
    for path in filter(Path.exists, (state / "runs").glob("*.pid")):
        identity = ProcessIdentity.parse(path.read_text())
        if identity is not None:
            kill_tree(identity, RunCgroup.of(path.stem))


def task_job(
    task_id: str,
    *,
    job_id: str | None = None,
    fence: int = 1,
    lease_s: float = 900.0,
    ships_log: bool = True,
    **spec: Any,
) -> Assign:
    """Return the assignment of one task of the Dag."""
    job_id = job_id or str(uuid.uuid4())
    return Assign(
        fence=Fence(fence), job=task_spec("lab", task_id, job_id, **spec), lease_s=lease_s, ships_log=ships_log
    )


def callback_job(path: str) -> Assign:
    """Return the assignment of a callback to a function of the Dag file."""
    job_id = str(uuid.uuid4())
    callback = {"id": job_id, "fetch_method": "import_path", "data": {"path": path, "kwargs": {"context": {}}}}
    workload = {
        "type": "ExecuteCallback",
        "callback": callback,
        "bundle_info": {"name": "dags-folder", "version": None},
        "dag_rel_path": "lab.py",
    }
    return task_job("", job_id=job_id, type=WorkloadType.CALLBACK, workload=workload, log_path=f"callbacks/{job_id}")


def execution_api(request: ApiRequest) -> ApiResponse | None:
    """Answer like Airflow's Execution API does when all is well; None for no answer."""
    if request.target.endswith("/run"):
        return answer_json(request, 200, run_context("lab"))
    if request.target.startswith("variables/"):
        return answer_json(request, 200, {"key": "place", "value": "the edge"})
    return answer_json(request, 204)


@dataclass
class FakeBridge:
    """Welcomes, answers, stores logs and results, and remembers all it was sent."""

    broker: MemoryBroker
    api: Callable[[ApiRequest], ApiResponse | None] = execution_api
    kill_grace_s: float = 10.0
    presence_interval_s: float = 20.0
    acks_logs: bool = True
    acks_results: bool = True
    welcomes: bool = True
    drop: tuple[JobRef, ...] = ()
    known_results: tuple[JobRef, ...] = ()
    tell: Callable[[Message], None] = lambda _: None
    logs: dict[str, bytearray] = field(default_factory=dict)
    seen: list[Message] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._decoder = Decoder()
        self._news = threading.Condition(threading.RLock())
        self.broker.subscribe(TOPICS.for_bridge(), self._received)

    # ---------------------------------------------------------------- what a test asks

    def of(self, kind: type[M], condition: Callable[[M], bool] = lambda _: True) -> list[M]:
        """Return what was seen of one kind."""
        with self._news:
            return [message for message in self.seen if isinstance(message, kind) and condition(message)]

    async def until(self, look: Callable[[], T], timeout_s: float = 60.0) -> T:
        """Wait until ``look`` returns something true; looked at after every message."""

        def wait() -> T:
            with self._news:
                self._news.wait_for(look, timeout_s)
                return look()

        found = await asyncio.to_thread(wait)
        assert found, "it did not happen in time"
        return found

    async def result(self, job_id: str, timeout_s: float = 60.0) -> Finished:
        """Wait for a job's result."""
        return (await self.until(lambda: self.of(Finished, lambda m: m.job_id == job_id), timeout_s))[0]

    # ---------------------------------------------------------------- what a test does

    def send(self, topic: str, message: Message) -> None:
        """Publish to the worker."""
        for packet in encode(message):
            self.broker.publish(topic, packet, qos=1, retain=False)

    def assign(self, assign: Assign) -> str:
        """Give the worker a job."""
        self.send(TOPICS.assignment(assign.job.queue, NAME), assign)
        return assign.job.job_id

    def control(self, message: Message) -> None:
        """Say something on the control topic."""
        self.send(TOPICS.control(NAME), message)

    def respond(self, response: ApiResponse) -> None:
        """Answer a call."""
        self.send(TOPICS.rpc_response(NAME), response)

    # ---------------------------------------------------------------- what it does by itself

    def _received(self, topic: str, payload: bytes) -> None:
        message = self._decoder.feed(topic, payload)
        if message is None:
            return
        self._react(message)
        with self._news:
            self.seen.append(message)
            self._news.notify_all()
        self.tell(message)

    def _react(self, message: Message) -> None:
        match message:
            case Presence(state=WorkerState.OFFLINE):
                pass
            case Presence():
                self._answer_presence(message)
            case ApiRequest():
                response = self.api(message)
                if response is not None:
                    self.respond(response)
            case StartRequest():
                self.respond(ApiResponse(request_id=message.request_id, status=200))
            case LogChunk():
                self._store_log(message)
            case Finished():
                if self.acks_results:
                    self.control(ResultAck(job_id=message.job_id, fence=message.fence))

    def _answer_presence(self, presence: Presence) -> None:
        if not self.welcomes:
            return
        if presence.sequence == 0:
            positions = tuple(
                LogPosition(job_id=JobId(job_id), offset=len(data)) for job_id, data in self.logs.items()
            )
            self.control(
                Welcome(
                    incarnation=presence.incarnation,
                    connection=presence.connection,
                    kill_grace_s=self.kill_grace_s,
                    presence_interval_s=self.presence_interval_s,
                    logs=positions,
                    drop=self.drop,
                    known_results=self.known_results,
                )
            )
        self.control(
            PresenceAck(incarnation=presence.incarnation, connection=presence.connection, sequence=presence.sequence)
        )

    def _store_log(self, chunk: LogChunk) -> None:
        data = self.logs.setdefault(chunk.job_id, bytearray())
        if chunk.offset <= len(data):
            data[chunk.offset :] = chunk.body if chunk.offset + len(chunk.body) > len(data) else data[chunk.offset :]
        if self.acks_logs:
            self.control(LogAck(job_id=chunk.job_id, fence=chunk.fence, offset=len(data)))


def settings_for(home: Path, state: Path, **settings: Any) -> WorkerSettings:
    """Return a worker's settings, with ``settings`` in the place of the usual ones."""
    return WorkerSettings(
        bridge_url="wss://bridge.test/mqtt",
        certs=home,
        queues=("default",),
        state=StateDir(path=state),
        base_log_folder=home / "logs",
        **{"concurrency": 4, **settings},
    )


def make_worker(broker: MemoryBroker, settings: WorkerSettings, launcher: LauncherClient) -> Worker:
    """Return a worker that is connected to ``broker``."""
    address = WorkerAddress(name=NAME, incarnation=uuid.uuid4().hex, topics=TOPICS)
    transport = MemoryTransport(broker, CLIENT_ID, address.subscriptions, address.will)
    return Worker(settings, address, transport, launcher, version="0")


async def program(home: Path, state: Path, *, cut: bool, **settings_: Any) -> int:
    """Be a worker in a process of its own."""
    process = SpawnedLauncher()
    settings = settings_for(home, state, **settings_)
    lock = settings.state.prepare()
    launcher = LauncherClient(process)
    await launcher.wait_ready()
    broker = MemoryBroker()
    if cut:
        broker.stop()
    bridge = FakeBridge(broker)

    def report(message: Message) -> None:
        document = {**message.model_dump(mode="json"), "kind": message.kind}
        if isinstance(message, LogChunk):
            document["body"] = message.body.decode()
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    bridge.tell = report
    worker = make_worker(broker, settings, launcher)

    def obey() -> None:
        for line in sys.stdin:
            if json.loads(line)["kind"] == "cancel":
                bridge.control(Cancel.model_validate_json(line))
            else:
                bridge.assign(Assign.model_validate_json(line))

    threading.Thread(target=obey, daemon=True).start()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.request_stop, StopSignal.TERMINATE)
    code = await worker.run()
    os.close(lock)
    return int(code)


if __name__ == "__main__":
    home_, state_ = Path(os.environ["AIRFLOW_HOME"]), Path(sys.argv[1])
    sys.exit(asyncio.run(program(home_, state_, cut="cut" in sys.argv[3:], **json.loads(sys.argv[2]))))
