"""A shipper of one job's log, and a centre that stores what comes."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

from edge_mqtt.broker_bridge.protocol.codec import Decoder
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Finished, JobSpec, LogAck, LogChunk, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.link import Link, WorkerAddress
from edge_mqtt.worker.logs.shipper import LogShipper
from edge_mqtt.worker.timing import WorkerTiming

JOB_ID = JobId("j")
ADDRESS = WorkerAddress(name=WorkerName("w"), incarnation="i", topics=Topics())
SPEC = JobSpec(job_id=JOB_ID, type=WorkloadType.TASK, queue="q", log_path="task.log", workload={})
LAUNCHED = LocalJob(spec=SPEC, fence=Fence(3), lease_s=60.0, state=LocalJobState.LAUNCHED)


class LogScene:
    """Stores every chunk at its offset, and acknowledges when it is asked to."""

    def __init__(self, folder: Path, timing: WorkerTiming | None = None) -> None:
        self.path = folder / "task.log"
        self.stored = bytearray()
        #: How many chunks have come.
        self.chunks = 0
        self._arrived = asyncio.Event()
        self._decoder = Decoder()
        broker = MemoryBroker()
        broker.subscribe([ADDRESS.topics.log(ADDRESS.name, JOB_ID)], self._received)
        link = Link(MessageChannel(MemoryTransport(broker, "worker:w")), ADDRESS)
        link.start()
        link.ready = True
        self.shipper = LogShipper(link, lambda _: self.path, timing)

    def _received(self, topic: str, payload: bytes) -> None:
        chunk = self._decoder.feed(topic, payload)
        assert isinstance(chunk, LogChunk)
        assert chunk.fence == LAUNCHED.fence
        self.chunks += 1
        if chunk.offset <= len(self.stored):
            self.stored[chunk.offset : chunk.offset + len(chunk.body)] = chunk.body
        self._arrived.set()

    def write(self, data: bytes) -> None:
        """Write as the task does."""
        with self.path.open("ab") as file:
            file.write(data)

    def acknowledge(self) -> None:
        """Say what is stored."""
        self.shipper.record_ack(LogAck(job_id=JOB_ID, fence=LAUNCHED.fence, offset=len(self.stored)))

    def ship(self, *, acknowledged: bool = True) -> bytes:
        """Ship what there is; return what the centre has then."""
        self.shipper.ship()
        if acknowledged:
            self.acknowledge()
        return bytes(self.stored)

    async def arrived(self, text: bytes) -> None:
        """Wait until this is what the centre has."""
        while bytes(self.stored) != text:
            self._arrived.clear()
            await self._arrived.wait()

    def end(self) -> int:
        """End the job; return the size of its log."""
        size = self.shipper.end_log(LAUNCHED).size
        result = Finished(job_id=JOB_ID, fence=LAUNCHED.fence, exit_code=0, log_size=size)
        self.shipper.finish_log(replace(LAUNCHED, state=LocalJobState.FINISHED, result=result))
        return size
