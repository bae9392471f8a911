"""On a slow link a log that takes its turn is not lost, nothing travels twice, and nobody waits long behind a log."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any, cast

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, LogAck, LogChunk, WorkloadType
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.logs.shipper import LogShipper

JOBS = 16
LOG_BYTES = 256 * 1024
LINK_BYTES_PER_S = 32 * 1024


class SlowLink:
    """A first-in, first-out line with a clock of its own, and a centre that acknowledges what has come through."""

    ready = True
    is_busy = False

    def __init__(self) -> None:
        self.now = 0.0
        self.sent = 0
        self._queue: deque[LogChunk] = deque()
        self._through = 0.0

    def time(self) -> float:
        return self.now

    def send_log(self, _job_id: JobId, chunk: LogChunk) -> int:
        self._queue.append(chunk)
        self.sent += len(chunk.body)
        return len(chunk.body)

    @property
    def waiting(self) -> float:
        return sum(len(chunk.body) for chunk in self._queue) - self._through

    def one_second(self, shipper: LogShipper) -> None:
        self.some_time(shipper, 1.0)

    def some_time(self, shipper: LogShipper, seconds: float) -> None:
        self.now += seconds
        self._through = self._through + seconds * LINK_BYTES_PER_S if self._queue else 0.0
        while self._queue and self._through >= len(self._queue[0].body):
            chunk = self._queue.popleft()
            self._through -= len(chunk.body)
            offset = chunk.offset + len(chunk.body)
            shipper.record_ack(LogAck(job_id=chunk.job_id, fence=chunk.fence, offset=offset))


def test_log_that_waits_for_the_others_on_a_slow_link_is_not_sent_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        link = SlowLink()
        shipper = LogShipper(cast("Any", link), lambda job: tmp_path / job.job_id)
        shipper._time = link.time
        jobs = [JobId(f"j{number}") for number in range(JOBS)]
        for job_id in jobs:
            (tmp_path / job_id).write_bytes(b"x" * LOG_BYTES)
            spec = JobSpec(job_id=job_id, type=WorkloadType.TASK, queue="q", log_path=job_id, workload={})
            shipper.follow_log(LocalJob(spec=spec, fence=Fence(1), lease_s=60.0, state=LocalJobState.LAUNCHED))
        for _ in range(JOBS * LOG_BYTES // LINK_BYTES_PER_S + 1):
            shipper.ship()
            link.one_second(shipper)
        assert link.sent == JOBS * LOG_BYTES
        assert all(shipper._logs[job_id].cursor.acked == LOG_BYTES for job_id in jobs)

    asyncio.run(scenario())


def test_a_quiet_log_does_not_wait_for_the_end_of_a_flood(tmp_path: Path) -> None:
    async def scenario() -> None:
        link = SlowLink()
        shipper = LogShipper(cast("Any", link), lambda job: tmp_path / job.job_id)
        shipper._time = link.time
        for name, size in (("flood", 16 * LOG_BYTES), ("quiet", 100)):
            (tmp_path / name).write_bytes(b"x" * size)
            spec = JobSpec(job_id=JobId(name), type=WorkloadType.TASK, queue="q", log_path=name, workload={})
            shipper.follow_log(LocalJob(spec=spec, fence=Fence(1), lease_s=60.0, state=LocalJobState.LAUNCHED))
        for number in range(1, 20):
            with (tmp_path / "quiet").open("ab") as log:
                log.write(b"x" * 100)
            for _ in range(100):
                shipper.ship()
                link.some_time(shipper, 0.01)
            assert shipper._logs[JobId("quiet")].cursor.sent == 100 * (number + 1)

    asyncio.run(scenario())


def test_other_messages_wait_a_fraction_of_a_second_behind_a_flood(tmp_path: Path) -> None:
    async def scenario() -> None:
        link = SlowLink()
        shipper = LogShipper(cast("Any", link), lambda job: tmp_path / job.job_id)
        shipper._time = link.time
        (tmp_path / "flood").write_bytes(b"x" * LOG_BYTES)
        spec = JobSpec(job_id=JobId("flood"), type=WorkloadType.TASK, queue="q", log_path="flood", workload={})
        shipper.follow_log(LocalJob(spec=spec, fence=Fence(1), lease_s=60.0, state=LocalJobState.LAUNCHED))
        waited = []
        while shipper._logs[JobId("flood")].cursor.acked < LOG_BYTES:
            shipper.ship()
            waited.append(link.waiting / LINK_BYTES_PER_S)
            link.some_time(shipper, 0.01)
        assert max(waited[len(waited) // 2 :]) < 0.25
        assert link.now < 1.5 * LOG_BYTES / LINK_BYTES_PER_S

    asyncio.run(scenario())
