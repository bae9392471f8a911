"""A bridge that answers a worker from memory, at once, so that only the worker is measured."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterable

from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.ids import Fence, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    ApiResponse,
    Assign,
    Finished,
    LogAck,
    LogChunk,
    Message,
    Presence,
    PresenceAck,
    ResultAck,
    Welcome,
    WorkerState,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.inprocess import Router
from tests.support.task_jobs import answer_json, run_context, task_spec

NAME = WorkerName("bench")
TOPICS = Topics()
DAG_ID = "cost"
PATIENCE_S = 120.0


class Centre:
    """Welcomes the worker, answers its calls and stores what it sends."""

    def __init__(self, broker: Router) -> None:
        self._broker = broker
        self._decoder = Decoder()
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        #: By job: when it was assigned, asked to run and ended.
        self.assigned: dict[str, float] = {}
        self.run_calls: dict[str, float] = {}
        self.results: dict[str, tuple[float, Finished]] = {}
        self.welcomed = False
        broker.subscribe(TOPICS.for_bridge(), self._received)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that a message brings about."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def assign(self, task_id: str) -> str:
        """Give the worker a task; return the job's id."""
        assign = assignment(task_id)
        self.assigned[assign.job.job_id] = time.monotonic()
        self._send(TOPICS.assignment(assign.job.queue, NAME), assign)
        return assign.job.job_id

    async def succeed(self, jobs: Iterable[str]) -> None:
        """Wait until the jobs have ended.

        :raises RuntimeError: one failed.
        """
        wanted = set(jobs)
        await self.until(lambda: wanted <= self.results.keys())
        bad = [result for job, (_, result) in self.results.items() if job in wanted and result.exit_code != 0]
        if bad:
            raise RuntimeError(f"tasks failed: {bad}")

    def _send(self, topic: str, message: Message) -> None:
        for packet in encode(message):
            self._broker.publish(topic, packet, qos=1, retain=False)

    def _received(self, topic: str, payload: bytes) -> None:
        message = self._decoder.feed(topic, payload)
        if message is not None:
            self._react(message)
            self._loop.call_soon_threadsafe(self._news.set)

    def _react(self, message: Message) -> None:
        control = TOPICS.control(NAME)
        match message:
            case Presence(state=WorkerState.OFFLINE):
                pass
            case Presence(incarnation=incarnation, connection=connection, sequence=sequence):
                if sequence == 0:
                    welcome = Welcome(
                        incarnation=incarnation, connection=connection, kill_grace_s=10, presence_interval_s=20
                    )
                    self._send(control, welcome)
                    self.welcomed = True
                self._send(control, PresenceAck(incarnation=incarnation, connection=connection, sequence=sequence))
            case ApiRequest(job_id=job_id):
                if message.target.endswith("/run"):
                    self.run_calls[job_id] = time.monotonic()
                self._send(TOPICS.rpc_response(NAME), answer(message))
            case LogChunk(job_id=job_id, fence=fence, offset=offset, body=body):
                self._send(control, LogAck(job_id=job_id, fence=fence, offset=offset + len(body)))
            case Finished(job_id=job_id, fence=fence):
                self.results[job_id] = (time.monotonic(), message)
                self._send(control, ResultAck(job_id=job_id, fence=fence))


def answer(request: ApiRequest) -> ApiResponse:
    """Answer like Airflow's Execution API when all is well."""
    if request.target.endswith("/run"):
        return answer_json(request, 200, run_context(DAG_ID))
    return answer_json(request, 204)


def assignment(task_id: str) -> Assign:
    """Return a new job for one of the tasks."""
    return Assign(fence=Fence(1), job=task_spec(DAG_ID, task_id, str(uuid.uuid4())), lease_s=900.0)
