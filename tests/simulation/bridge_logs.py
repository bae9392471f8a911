"""The logs at the centre: the real ``LogStore`` on real files, and a thin model of ``logs/intake.py`` around it."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from edge_mqtt.broker_bridge.dispatch.core import events
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.logs.intake import _is_all_here
from edge_mqtt.broker_bridge.logs.store import LogStore, Write
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogAck, LogChunk
from tests.simulation.clock import Event, Shell

if TYPE_CHECKING:
    from tests.simulation.bridge import Bridge
    from tests.simulation.world import World


class CentralLogs:
    """Collects chunks while the disk is busy, stores them together, acknowledges what is stored."""

    #: A mutation: chunks are acknowledged before they are stored.
    acknowledges_first = False

    def __init__(self, world: World, bridge: Bridge) -> None:
        self._world = world
        self._bridge = bridge
        self._store = LogStore(Path(world.folder))

    def start(self) -> None:
        """Begin, for one life of the bridge."""
        self._waiting: deque[tuple[WorkerName, LogChunk]] = deque()
        self._arrived = Event()
        self._bridge.life.spawn(self._run())

    def put(self, worker: WorkerName, chunk: LogChunk) -> None:
        """Queue one chunk."""
        self._waiting.append((worker, chunk))
        self._arrived.set()

    def _run(self) -> Shell:
        while True:
            yield self._arrived.wait
            self._arrived = Event()
            batch = list(self._waiting)
            self._waiting.clear()
            yield from self._store_batch(batch)

    def _store_batch(self, batch: list[tuple[WorkerName, LogChunk]]) -> Shell:
        writes: list[Write] = []
        owners: dict[JobId, WorkerName] = {}
        for worker, chunk in batch:
            job = yield from self._open(worker, chunk.job_id)
            if job is None or job.log_base is None or job.spec.log_path is None:
                continue
            self._world.promises.wrote(worker, chunk.job_id, "the log")
            owners[chunk.job_id] = worker
            write = Write(
                job_id=chunk.job_id,
                log_path=job.spec.log_path,
                base=job.log_base,
                offset=chunk.offset,
                data=chunk.body,
            )
            writes.append(write)
        if not writes:
            return
        if self.acknowledges_first:
            for write in writes:
                self._acknowledge(owners[write.job_id], write.job_id, write.offset + len(write.data))
        yield self._bridge.disk()
        self._perhaps_tear(writes)
        appended = self._store.append(writes)
        assert not appended.failed
        self._bridge.step()
        for job_id, offset in appended.stored.items():
            self._acknowledge(owners[job_id], job_id, offset)

    def _perhaps_tear(self, writes: list[Write]) -> None:
        """Perhaps die in the middle of the writing: some of it is on the disk then."""
        if self._world.is_deadly("bridge"):
            chance = self._world.chance
            kept = writes[: chance.randint(0, len(writes))]
            if kept:
                last = kept[-1]
                data = last.data[: chance.randint(0, len(last.data))]
                kept[-1] = Write(
                    job_id=last.job_id, log_path=last.log_path, base=last.base, offset=last.offset, data=data
                )
                self._store.append(kept)
            self._world.die(self._bridge)

    def _acknowledge(self, worker: WorkerName, job_id: JobId, offset: int) -> None:
        self._bridge.send(self._world.topics.control(worker), LogAck(job_id=job_id, offset=offset))

    def _open(self, worker: WorkerName, job_id: JobId) -> Shell:
        job = self._bridge.known(job_id)
        if job is None or job.worker != worker or job.spec.log_path is None:
            return None
        if job.log_base is not None:
            return job
        base = self._base(job, job.spec.log_path)
        if base is None:
            return None
        problem = yield self._bridge.commit(events.LogOpened(job_id=job_id, base=base))
        return None if problem else self._bridge.known(job_id)

    def _base(self, job: Job, log_path: str) -> int | None:
        size = self._store.size(log_path)
        ledger = self._bridge.ledger
        before = [other for other in ledger.same_log(log_path) if other.sequence < job.sequence]
        return size if all(_is_all_here(other, size) for other in before) else None

    def stored(self, job_id: JobId) -> int:
        """Return how many bytes of the job's log are stored."""
        job = self._bridge.known(job_id)
        if job is None or job.log_base is None or job.spec.log_path is None:
            return 0
        stored = max(0, self._store.size(job.spec.log_path) - job.log_base)
        return stored if job.log_size is None else min(stored, job.log_size)

    def stored_bytes(self, job: Job) -> bytes:
        """Return what is stored of a job's log: up to its size, and no further than where the next job begins."""
        assert job.log_base is not None
        assert job.spec.log_path is not None
        later = [
            other.log_base
            for other in self._bridge.ledger.same_log(job.spec.log_path)
            if other.log_base is not None and other.log_base > job.log_base
        ]
        sizes = [] if job.log_size is None else [job.log_base + job.log_size]
        end = min([*later, *sizes, self._store.size(job.spec.log_path)])
        return self._store.read(job.spec.log_path, job.log_base, end - job.log_base)
