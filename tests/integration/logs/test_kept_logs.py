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

from edge_mqtt.broker_bridge.background_tasks import BackgroundTasks
from edge_mqtt.broker_bridge.dispatch.change_feed import ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.view import DispatchView
from edge_mqtt.broker_bridge.dispatch.job_records import JobRecords
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.dispatch.service import DispatchService
from edge_mqtt.broker_bridge.job_log import JobLog
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.receiver import LogReceiver
from edge_mqtt.broker_bridge.logs.segment_allocator import SegmentAllocator
from edge_mqtt.broker_bridge.logs.store import LogStore
from edge_mqtt.broker_bridge.outbound import Outbound
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
    """Dispatcher and logs, without a network."""

    def __init__(
        self,
        service: DispatchService,
        view: DispatchView,
        records: JobRecords,
        receiver: LogReceiver,
        channel: Channel,
    ) -> None:
        self.service = service
        self.view = view
        self.records = records
        self.receiver = receiver
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
        job = await self.records.get(job_id)
        return job is not None and self.view.is_reachable(job)

    async def submit(self, job_id: JobId, queue: str) -> None:
        spec = JobSpec(job_id=job_id, type=WorkloadType.TASK, queue=queue, log_path=f"{job_id}.log")
        await self.service.commit(events.Submitted(executor=EXECUTOR, job=spec, token=""))

    async def stored(self, job_id: JobId) -> int:
        """Ship the beginning of a job's log; return what is acknowledged."""
        chunk = LogChunk(job_id=job_id, fence=Fence(1), offset=0, body=b"one\n")
        self.receiver.accept_chunk(WORKER, chunk)
        return (await asyncio.wait_for(self.channel.acks.get(), 10)).offset


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Bridge]:
    ledger = AsyncLedger(SqlLedger(f"sqlite:///{folder / 'ledger.db'}"))
    change_feed, channel, tasks = ChangeFeed(), Channel(), BackgroundTasks()
    dispatcher = Dispatcher(DispatchSettings(queues_keeping_logs=frozenset({"cameras"})))
    service = DispatchService(dispatcher, ledger, change_feed)
    await service.load()
    store, records = LogStore(folder / "logs"), JobRecords(dispatcher.view, ledger)
    completeness = Completeness(dispatcher.view.is_reachable, clock=time.monotonic)
    allocator = SegmentAllocator(store, records, service.commit, completeness, now=lambda: datetime.now(UTC))
    receiver = LogReceiver(
        store,
        allocator,
        completeness,
        acknowledge=lambda worker, ack: channel.send(TOPICS.control(worker), ack),
        change_feed=change_feed,
    )
    outbound = Outbound(
        TOPICS,
        cast("Any", channel),
        job_log=JobLog(dispatcher.view),
        receiver=receiver,
        allocator=allocator,
        tasks=tasks,
    )
    tasks.start("logs", receiver.run())
    tasks.start("dispatch", service.run(outbound.perform, lambda _: None))
    try:
        yield Bridge(service, dispatcher.view, records, receiver, channel)
    finally:
        await tasks.stop()
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
