"""Logs that stay on their worker: the bridge's parts together write one line to the central file."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.sql import open_ledger
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.receiver import LogReceiver
from edge_mqtt.broker_bridge.logs.segment_allocator import SegmentAllocator
from edge_mqtt.broker_bridge.logs.store import LogStore
from edge_mqtt.broker_bridge.message_router import MessageRouter
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    HeldJob,
    JobSpec,
    LogAck,
    LogChunk,
    Message,
    Presence,
    ReportedJobState,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics

WORKER, EXECUTOR = WorkerName("lab-3"), ExecutorName("e")
TOPICS = Topics()
KEPT, SHIPPED = JobId("kept"), JobId("shipped")


class Channel:
    """Keeps the acknowledgements of logs."""

    def __init__(self) -> None:
        self.acks: asyncio.Queue[LogAck] = asyncio.Queue()

    def send(self, topic: str, message: Message) -> bool:
        if isinstance(message, LogAck):
            self.acks.put_nowait(message)
        return True


class Bridge:
    """Dispatcher, desk and logs, without a network."""

    def __init__(self, service: DispatchService, desk: MessageRouter, channel: Channel) -> None:
        self.service = service
        self.desk = desk
        self.channel = channel

    async def hello(self, *jobs: JobId) -> None:
        held = tuple(HeldJob(job_id=job, fence=Fence(1), state=ReportedJobState.RUNNING) for job in jobs)
        presence = Presence(
            incarnation="i",
            connection=time.monotonic_ns(),
            state=WorkerState.ONLINE,
            queues=("cameras", "default"),
            concurrency=4,
            jobs=held,
        )
        await self.service.commit(events.WorkerSeen(worker=WORKER, presence=presence))

    async def is_reachable(self, job_id: JobId) -> bool:
        job = await self.service.record(job_id)
        return job is not None and self.service.is_reachable(job)

    async def submit(self, job_id: JobId, queue: str) -> None:
        spec = JobSpec(job_id=job_id, type=WorkloadType.TASK, queue=queue, log_path=f"{job_id}.log")
        await self.service.commit(events.Submitted(executor=EXECUTOR, job=spec, token=""))

    async def stored(self, job_id: JobId) -> int:
        """Ship the beginning of a job's log; return what is acknowledged."""
        chunk = LogChunk(job_id=job_id, fence=Fence(1), offset=0, body=b"one\n")
        self.desk.received(TOPICS.log(WORKER, job_id), chunk)
        return (await asyncio.wait_for(self.channel.acks.get(), 10)).offset


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Bridge]:
    ledger = AsyncLedger(open_ledger(f"sqlite:///{folder / 'ledger.db'}"))
    changes, channel = ChangeFeed(), Channel()
    settings = DispatchSettings(queues_keeping_logs=frozenset({"cameras"}))
    service = DispatchService(Dispatcher(settings), ledger, changes)
    await service.load()
    store = LogStore(folder / "logs")
    places = SegmentAllocator(
        store, service, Completeness(service.is_reachable, clock=time.monotonic), now=lambda: datetime.now(UTC)
    )
    intake = LogReceiver(
        store,
        places,
        acknowledge=lambda worker, ack: channel.send(TOPICS.control(worker), ack),
        changes=changes,
    )
    nothing = cast("Any", None)
    desk = MessageRouter(TOPICS, cast("Any", channel), service=service, relay=nothing, intake=intake, tail=nothing)
    tasks = [asyncio.create_task(intake.run()), asyncio.create_task(service.run(desk.perform, lambda _: None))]
    try:
        yield Bridge(service, desk, channel)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await desk.stop()
        await ledger.close()


def test_a_job_s_start_brings_one_line_however_often_it_is_told(tmp_path: Path) -> None:
    async def test() -> None:
        async with running(tmp_path) as bridge:
            await bridge.hello()
            await bridge.submit(KEPT, "cameras")
            await bridge.submit(SHIPPED, "default")
            for job_id in (KEPT, SHIPPED, KEPT):
                assert await bridge.service.ask_start(WORKER, job_id, Fence(1), "host:7") is None
            assert await bridge.is_reachable(KEPT)
            assert await bridge.stored(SHIPPED) == 4
        async with running(tmp_path) as bridge:
            assert not await bridge.is_reachable(KEPT)
            await bridge.hello(KEPT, SHIPPED)
            assert await bridge.service.ask_start(WORKER, KEPT, Fence(1), "host:7") is None
            # Whatever a start brings is there before what comes after it is acknowledged.
            assert await bridge.stored(SHIPPED) == 4
        (line,) = (tmp_path / "logs" / f"{KEPT}.log").read_bytes().splitlines()
        assert json.loads(line)["event"] == (
            "the log stays on worker lab-3, in kept.log below its base_log_folder: "
            "queue 'cameras' keeps its logs on the worker"
        )
        assert (tmp_path / "logs" / f"{SHIPPED}.log").read_bytes() == b"one\n"

    asyncio.run(test())
