"""On a slow link a log that takes its turn is not lost: nothing travels twice."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path
from typing import Any, cast

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, LogChunk, WorkloadType
from edge_mqtt.worker.core.jobs import HeldByUs, JobState
from edge_mqtt.worker.log_shipping import LogShipper

JOBS = 16
LOG_BYTES = 256 * 1024
LINK_BYTES_PER_S = 32 * 1024


class SlowLink:
    """A first-in, first-out line with a clock of its own, and a centre that acknowledges what has come through."""

    ready = True

    def __init__(self) -> None:
        self.now = 0.0
        self.sent = 0
        self._queue: deque[LogChunk] = deque()
        self._through = 0

    def time(self) -> float:
        return self.now

    def send_log(self, _job_id: JobId, chunk: LogChunk) -> bool:
        self._queue.append(chunk)
        self.sent += len(chunk.body)
        return True

    def one_second(self, shipper: LogShipper) -> None:
        self.now += 1.0
        self._through += LINK_BYTES_PER_S
        while self._queue and self._through >= len(self._queue[0].body):
            chunk = self._queue.popleft()
            self._through -= len(chunk.body)
            shipper.acknowledge(chunk.job_id, chunk.fence, chunk.offset + len(chunk.body))


def test_log_that_waits_for_the_others_on_a_slow_link_is_not_sent_twice(tmp_path: Path) -> None:
    async def scenario() -> None:
        link = SlowLink()
        shipper = LogShipper(cast("Any", link), lambda job: tmp_path / job.job_id)
        shipper._time = link.time
        jobs = [JobId(f"j{number}") for number in range(JOBS)]
        for job_id in jobs:
            (tmp_path / job_id).write_bytes(b"x" * LOG_BYTES)
            spec = JobSpec(job_id=job_id, type=WorkloadType.TASK, queue="q", log_path=job_id, workload={})
            shipper.follow(HeldByUs(spec=spec, fence=Fence(1), lease_s=60.0, state=JobState.LAUNCHED))
        for _ in range(JOBS * LOG_BYTES // LINK_BYTES_PER_S + 1):
            shipper.ship()
            link.one_second(shipper)
        assert link.sent == JOBS * LOG_BYTES
        assert all(shipper._logs[job_id].cursor.acked == LOG_BYTES for job_id in jobs)

    asyncio.run(scenario())
