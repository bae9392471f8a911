"""The parts of the bridge that handle logs, around one folder, with jobs that a test makes up."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.events import Event, LogOpened
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.job_records import JobRecords
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.receiver import MAX_WAITING_BYTES, LogReceiver
from edge_mqtt.broker_bridge.logs.segment_allocator import SegmentAllocator
from edge_mqtt.broker_bridge.logs.store import Appended, LogStore, Write
from edge_mqtt.broker_bridge.logs.tail_service import TailService
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, LogAck, LogChunk, WorkloadType
from tests.support.fake_change_feed import WaitedChangeFeed

WORKER = WorkerName("w")
PATH = "dag_id=d/run_id=r/task_id=t/attempt=1.log"
#: Jobs that write one file at the same time, at most.
MOST_WRITERS = 4
#: Seconds of lease of every job.
LEASE_S = 900.0


class Killed(Exception):
    """The bridge died."""


class Records:
    """The ledger's jobs."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()

    def put(self, job_id: str, sequence: int, *, log_path: str = PATH, map_index: int = -1, **changes: Any) -> None:
        """Store a job: one that runs, unless ``changes`` say otherwise."""
        spec = JobSpec(
            job_id=JobId(job_id),
            type=WorkloadType.TASK,
            queue="q",
            dag_id="d",
            run_id="r",
            task_id="t",
            map_index=map_index,
            try_number=1,
            log_path=log_path,
        )
        job = Job(
            spec=spec,
            executor=ExecutorName("e"),
            state=CentralJobState.RUNNING,
            starter="host:1",
            worker=WORKER,
            sequence=sequence,
            lease_s=LEASE_S,
        )
        self.ledger.commit([replace(job, **changes)])

    def get(self, job_id: str) -> Job:
        """Return a job."""
        (job,) = self.ledger.get([JobId(job_id)])
        return job

    def change(self, job_id: str, **changes: Any) -> None:
        """Change what is stored of a job."""
        self.ledger.commit([replace(self.get(job_id), **changes)])


class Airflow:
    """What Airflow says of runs."""

    def __init__(self) -> None:
        self.run_state = "running"
        self.says: str | None = None

    async def get_state(self, dag_id: str, run_id: str) -> str:
        """Return the run's state."""
        return self.run_state

    async def find_problem(self, dag_id: str, run_id: str | None, task_id: str | None) -> str | None:
        """Return what there is not."""
        return self.says


class Centre:
    """Belongs to one event loop. ``now`` is the clock of completeness, which stands still; ``away`` are workers."""

    def __init__(self, folder: Path, max_waiting_bytes: int = MAX_WAITING_BYTES) -> None:
        self.folder = folder
        self.max_waiting_bytes = max_waiting_bytes
        self.records = Records()
        self.airflow = Airflow()
        self.now = 0.0
        self.away: set[WorkerName] = set()
        #: What was acknowledged of every job by the time that everything was :meth:`settled`.
        self.acked: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self.start()

    def start(self) -> None:
        """Begin with nothing but the ledger and the files, as a bridge that was killed does."""
        self.acks: asyncio.Queue[tuple[WorkerName, LogAck]] = asyncio.Queue()
        self.change_feed = WaitedChangeFeed()
        self.store = LogStore(self.folder)
        self.ledger = AsyncLedger(self.records.ledger)
        jobs = JobRecords(Dispatcher(DispatchSettings()).view, self.ledger)
        completeness = Completeness(lambda job: job.worker not in self.away, clock=lambda: self.now)
        self.allocator = SegmentAllocator(
            self.store,
            jobs,
            lambda event: self.commit(event),  # noqa: PLW0108 -- tests replace the method
            completeness,
            now=lambda: datetime.now(UTC),
        )
        self.receiver = LogReceiver(
            self.store,
            self.allocator,
            completeness,
            acknowledge=lambda worker, ack: self.acks.put_nowait((worker, ack)),
            change_feed=self.change_feed,
            max_waiting_bytes=self.max_waiting_bytes,
        )
        for job_id in self.records.ledger.without_notice():
            self.receiver.write_notice(job_id)
        self.tail = TailService(
            self.store,
            jobs,
            self.ledger,
            runs=self.airflow,
            change_feed=self.change_feed,
            completeness=completeness,
            clock=time.monotonic,
        )

    async def commit(self, event: Event) -> None:
        """Store where a job begins."""
        assert isinstance(event, LogOpened)
        for left in event.left:
            self.records.change(left.job_id, log_base=left.base, log_kept=left.kept, log_left=True)
        if event.base is not None:
            self.records.change(event.job_id, log_base=event.base, log_left=False)

    async def run(self) -> None:
        """Store what comes, until stopped."""
        self._task = asyncio.create_task(self.receiver.run())

    async def stop(self) -> None:
        """Store nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        await self.ledger.close()

    async def died(self) -> None:
        """Wait until everything received so far has been stored, or storing it has ended with an error."""
        assert self._task is not None
        settled = asyncio.create_task(self.settled())
        await asyncio.wait([self._task, settled], return_when=asyncio.FIRST_COMPLETED)
        settled.cancel()
        await asyncio.gather(settled, return_exceptions=True)

    def doom(self, written: int) -> None:
        """Have the bridge die when it writes next, after so many bytes."""
        append = self.store.append

        def torn(writes: Iterable[Write]) -> Appended:
            left = written
            kept = []
            for write in writes:
                kept.append(replace(write, data=write.data[:left]))
                left -= len(kept[-1].data)
                if left == 0:
                    break
            append(kept)
            raise Killed

        self.store.append = torn  # type: ignore[method-assign]  # what a crash leaves of one call

    async def restart(self) -> None:
        """Stop and start again."""
        await self.stop()
        self.start()
        await self.run()

    @property
    def file(self) -> Path:
        """The log file of all jobs."""
        return self.folder / PATH

    def text(self) -> bytes:
        """Return what the log file holds."""
        return self.file.read_bytes() if self.file.exists() else b""

    def ship(self, job_id: str, offset: int, data: bytes, worker: WorkerName = WORKER, fence: int = 1) -> None:
        """Receive a chunk."""
        self.receiver.accept_chunk(
            worker, LogChunk(job_id=JobId(job_id), fence=Fence(fence), offset=offset, body=data)
        )

    async def ack(self) -> LogAck:
        """Return the next acknowledgement."""
        _, ack = await asyncio.wait_for(self.acks.get(), 10)
        return ack

    async def acknowledged(self) -> int:
        """Return the offset of the next acknowledgement."""
        return (await self.ack()).offset

    async def shipped(self, job_id: str, offset: int, data: bytes, worker: WorkerName = WORKER) -> int:
        """Receive a chunk; return what is acknowledged then."""
        self.ship(job_id, offset, data, worker)
        return await self.acknowledged()

    async def settled(self) -> None:
        """Wait until everything received so far has been stored, or could not be."""
        # Nobody's chunk is acknowledged before anything is written, so the second one comes after the first's batch.
        # Of the jobs that write one file only one has its turn in a batch.
        for _ in range(1 + MOST_WRITERS):
            self.ship("nobody's", 0, b"x")
            while (ack := await self.ack()).job_id != "nobody's":
                self.acked[ack.job_id] = ack.offset


def centre_test(
    folder: Path, test: Callable[[Centre], Coroutine[Any, Any, None]], *, max_waiting_bytes: int = MAX_WAITING_BYTES
) -> None:
    """Run ``test`` with a centre that stores what comes."""

    async def run() -> None:
        centre = Centre(folder, max_waiting_bytes)
        await centre.run()
        try:
            await asyncio.wait_for(test(centre), 20)
        finally:
            await centre.stop()

    asyncio.run(run())
