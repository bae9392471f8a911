"""A relay between a job as the test says and a real HTTP server that answers as it is told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from edge_mqtt.broker_bridge.dispatch.core.events import (
    CallForwarded,
    Event,
    StartRefused,
    TaskTold,
    TokenRefreshed,
)
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.execution_api.client import ExecutionApiClient
from edge_mqtt.broker_bridge.execution_api.forwarding import RelayLimits
from edge_mqtt.broker_bridge.execution_api.relay import Relay
from edge_mqtt.broker_bridge.execution_api.response_cache import CacheLimits, ResponseCache
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, JobSpec, WorkloadType

WORKER = WorkerName("w")
JOB = JobId("j1")
RUN = "task-instances/ti-1/run"
STATE = "task-instances/ti-1/state"


@dataclass
class Seen:
    line: str
    headers: dict[str, str]
    body: bytes


#: Status, extra header lines and body.
Answer = tuple[int, list[str], bytes]


@dataclass
class Server:
    """A real HTTP/1.1 server that answers what the test tells it to."""

    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    #: The next answers; then 200.
    answers: list[Answer] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    connections: set[asyncio.Task[None]] = field(default_factory=set)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.add(asyncio.create_task(self.serve(reader, writer)))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            headers: dict[str, str] = {}
            while (header := await reader.readline()) != b"\r\n":
                name, _, value = header.decode().partition(":")
                headers[name.lower()] = value.strip()
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            self.seen.append(Seen(line.decode().rsplit(" ", 1)[0], headers, body))
            self.arrived.set()
            await self.gate.wait()
            status, extra, answer = self.answers.pop(0) if self.answers else (200, [], b'"ok"')
            lines = [
                f"HTTP/1.1 {status} x",
                f"content-length: {len(answer)}",
                "content-type: application/json",
                *extra,
            ]
            writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + answer)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@dataclass
class Held:
    """The dispatcher's side: one job."""

    current: Job
    refusal: str | None = None
    ledger_full: bool = False
    refused: asyncio.Event = field(default_factory=asyncio.Event)
    starts: list[str] = field(default_factory=list)
    on_start: Callable[[], bool] = bool
    muted_at_start: bool = False
    superseded: bool = False
    start_refusals: list[str] = field(default_factory=list)
    #: What the task was said to tell: the state, and whether that was stored before anything else happened.
    words: list[tuple[str, bool]] = field(default_factory=list)

    def adopt(self, job_id: JobId, worker: WorkerName) -> None:
        """Have the job under another id, on another worker."""
        spec = self.current.spec.model_copy(update={"job_id": job_id})
        self.current = replace(self.current, spec=spec, worker=worker)

    def get_job(self, job_id: JobId) -> Job | None:
        return self.current if job_id == self.current.id else None

    def is_superseded(self, job_id: JobId) -> bool:
        return self.superseded

    def running_jobs(self) -> list[Job]:
        return [self.current]

    def is_reachable(self, job: Job) -> bool:
        return True

    def post(self, event: Event) -> None:
        if isinstance(event, TaskTold):
            self.words.append((event.state, False))
            return
        assert isinstance(event, StartRefused)
        self.start_refusals.append(event.reason)

    async def ask_start(self, worker: WorkerName, job_id: JobId, fence: Fence, starter: str) -> str | None:
        self._check_ledger()
        self.muted_at_start = self.on_start()
        self.starts.append(starter)
        if self.refusal is None:
            self.current = replace(self.current, state=CentralJobState.RUNNING, starter=starter)
        return self.refusal

    def _check_ledger(self) -> None:
        if self.ledger_full:
            self.refused.set()
            raise LedgerFull("the disk is full")

    async def commit(self, event: Event) -> None:
        self._check_ledger()
        if isinstance(event, TaskTold):
            self.words.append((event.state, True))
        elif isinstance(event, CallForwarded):
            self.current = replace(self.current, forwarded=event.call)
        else:
            assert isinstance(event, TokenRefreshed)
            self.current = replace(self.current, token=event.token)


class Issuer:
    def __init__(self, token: str | None = None) -> None:
        self._token = token

    def issue_token(self, task_instance_id: str) -> str | None:
        return self._token


def job(
    state: CentralJobState = CentralJobState.RUNNING,
    kind: WorkloadType = WorkloadType.TASK,
    *,
    ti_id: str = "ti-1",
    token: str = "t1",  # noqa: S107  of a test
) -> Job:
    spec = JobSpec(job_id=JOB, type=kind, queue="q", workload={"ti": {"id": ti_id}})
    return Job(
        spec=spec, executor=ExecutorName("e"), lease_s=900.0, token=token, state=state, fence=Fence(3), worker=WORKER
    )


def call(method: str = "GET", target: str = "variables/x", request_id: str = "r1", **changes: object) -> ApiRequest:
    fields = {"job_id": JOB, "fence": Fence(3), "headers": {"airflow-api-version": "2026-06-30"}} | changes
    return ApiRequest.model_validate({"request_id": request_id, "method": method, "target": target} | fields)


@asynccontextmanager
async def api(
    held: Held,
    issuer: Issuer | None = None,
    *,
    limits: RelayLimits | None = None,
    cache: CacheLimits | None = None,
) -> AsyncIterator[tuple[Relay, Server]]:
    server = Server()
    server.gate.set()
    listening = await asyncio.start_server(server.accept, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    client = ExecutionApiClient(f"http://127.0.0.1:{server.port}/execution/")
    try:
        yield (
            Relay(
                client,
                held,
                held,
                issuer or Issuer(),
                limits=limits or RelayLimits(retry_s=0.01),
                cache=ResponseCache(cache),
            ),
            server,
        )
    finally:
        await client.aclose()
        await asyncio.gather(*server.connections)
        listening.close()
        await listening.wait_closed()


def scenario(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(asyncio.wait_for(test(), 20))

    run.__name__ = test.__name__
    return run
