"""A data centre for edge-logs: real broker over WSS, real log store and tail service, jobs as the test says."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.job_records import JobRecords
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.store import LogStore
from edge_mqtt.broker_bridge.logs.tail_service import TailService
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Message, TailRequest, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import server_context
from tests.support.fixed_context import FixedContext

#: Seconds that anything may take on a busy machine.
PATIENCE_S = 30.0
TOPICS = Topics()
OPERATOR = Identity(Role.OPERATOR, "ann")
WORKER_NAME = WorkerName("lab-3")
WORKER = Identity(Role.WORKER, WORKER_NAME)


class Airflow:
    """What Airflow says of runs: one run of one Dag."""

    def __init__(self) -> None:
        self.run_state = "running"

    async def get_state(self, dag_id: str, run_id: str) -> str:
        """Return the run's state."""
        return self.run_state

    async def find_problem(self, dag_id: str, run_id: str | None, task_id: str | None) -> str | None:
        """Return what there is not."""
        return f"there is no Dag {dag_id!r}" if dag_id != "etl" else None


class RecordsFromTheFirst(JobRecords):
    """Whoever reads what comes begins with what there is."""

    async def next_sequence(self) -> int:
        """Return the first job's number."""
        return 1


class LogCentre:
    """Runs in a thread of its own.

    :param folder: for certificates (``certs``) and logs (``logs``).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.airflow = Airflow()
        self._sequence = 0
        self._ledger = MemoryLedger()
        self._jobs: dict[str, Job] = {}
        #: Requests that arrived.
        self.requests: list[TailRequest] = []
        store = Store(folder / "certs")
        now = datetime.now(UTC)
        store.create(hosts=["localhost", "127.0.0.1"], force=False, now=now)
        for identity in (OPERATOR, WORKER):
            store.issue(identity, hosts=(), force=False, now=now)
        self._party = load_credentials(folder / "certs" / "bridge")
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="log-centre")
        self._thread.start()
        self.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"wss://localhost:{self.port}/mqtt"

    def certs_of(self, identity: Identity) -> Path:
        """Return the folder of a party's certificate."""
        return Store(self.folder / "certs").folder(identity)

    # ------------------------------------------------------------ what the test does

    def start(self) -> None:
        """Listen, on the same port as before."""
        self._run(self._start())

    def stop(self) -> None:
        """Break every connection and listen no more."""
        self._run(self._stop())

    def close(self) -> None:
        """Stop for good."""
        if self._broker is not None:
            self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()

    def write(self, task_id: str, data: bytes, *, map_index: int = -1, try_number: int = 1) -> None:
        """Append to a task's log, as a worker's bytes arriving do."""
        self._run(self._write(task_id, data, map_index, try_number))

    def end_run(self, state: str) -> None:
        """End every task and the run."""
        self._run(self._end_run(state))

    def wait_for_requests(self, count: int) -> None:
        """Wait until ``count`` requests have arrived."""
        deadline = time.monotonic() + PATIENCE_S
        while len(self.requests) < count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def wait_for_readers(self, count: int) -> None:
        """Wait until ``count`` clients are connected."""
        deadline = time.monotonic() + PATIENCE_S
        while self._broker is None or self._broker.connections != count:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    # ------------------------------------------------------------ MessageReceiver

    def connected(self) -> None:
        """Do nothing."""

    def disconnected(self, reason: str) -> None:
        """Do nothing."""

    def refused(self, refusal: Refusal) -> None:
        """Do nothing."""

    def received(self, topic: str, message: Message) -> None:
        """Answer an operator; a new request takes the place of the one before."""
        _, client_id, _ = TOPICS.parse(topic)
        assert isinstance(message, TailRequest)
        self.requests.append(message)
        before = self._answering.pop(client_id, None)
        if before is not None:
            before.cancel()
        self._answering[client_id] = asyncio.ensure_future(self._answer(client_id, message))

    # ------------------------------------------------------------ in the loop

    async def _answer(self, client_id: str, request: TailRequest) -> None:
        reply = await self._tail.answer(request)
        self._channel.send(TOPICS.admin_response(Identity.from_client_id(client_id)), reply)

    async def _start(self) -> None:
        self._change_feed = ChangeFeed()
        self._async_ledger = AsyncLedger(self._ledger)
        self._tail = TailService(
            LogStore(self.folder / "logs"),
            RecordsFromTheFirst(Dispatcher(DispatchSettings()).view, self._async_ledger),
            self._async_ledger,
            runs=self.airflow,
            change_feed=self._change_feed,
            completeness=Completeness(lambda _: True, clock=time.monotonic),
            clock=time.monotonic,
        )
        self._answering: dict[str, asyncio.Future[None]] = {}
        self._broker: EmbeddedBroker | None = EmbeddedBroker(
            ssl_contexts=FixedContext(server_context(self._party)), topics=TOPICS, host="127.0.0.1", port=self.port
        )
        await self._broker.start()
        self.port = self._broker.port
        self._channel = MessageChannel(InProcessTransport(self._broker.router, TOPICS.for_bridge()))
        self._channel.start(self)

    async def _stop(self) -> None:
        assert self._broker is not None
        for task in self._answering.values():
            task.cancel()
        await asyncio.gather(*self._answering.values(), return_exceptions=True)
        self._channel.stop()
        await self._broker.stop()
        self._broker = None
        await self._async_ledger.close()

    async def _write(self, task_id: str, data: bytes, map_index: int, try_number: int) -> None:
        path = f"dag_id=etl/run_id=r1/task_id={task_id}/map_index={map_index}/attempt={try_number}.log"
        if path not in self._jobs:
            self._sequence += 1
            spec = JobSpec(
                job_id=JobId(f"job-{self._sequence}"),
                type=WorkloadType.TASK,
                queue="default",
                dag_id="etl",
                run_id="r1",
                task_id=task_id,
                map_index=map_index,
                try_number=try_number,
                log_path=path,
            )
            self._put(
                Job(
                    spec=spec,
                    executor=ExecutorName("scheduler"),
                    state=CentralJobState.RUNNING,
                    worker=WORKER_NAME,
                    sequence=self._sequence,
                    lease_s=900.0,
                    log_base=0,
                )
            )
        file = self.folder / "logs" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as log:
            log.write(data)
        self._change_feed.notify()

    async def _end_run(self, state: str) -> None:
        for path, job in list(self._jobs.items()):
            size = (self.folder / "logs" / path).stat().st_size
            self._put(replace(job, state=CentralJobState.FINISHED, token=None, log_size=size))
        self.airflow.run_state = state
        self._change_feed.notify()

    def _put(self, job: Job) -> None:
        assert job.spec.log_path is not None
        self._jobs[job.spec.log_path] = job
        self._ledger.commit([job])

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        future: Future[None] = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        future.result(PATIENCE_S)
