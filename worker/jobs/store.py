"""The jobs that this worker holds: in memory for everybody here, in the spool before anybody is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.jobs.spool import Spool

log = logging.getLogger(__name__)

#: States of jobs whose supervisor may be alive.
WITH_PROCESS: Final = frozenset({LocalJobState.LAUNCHED, LocalJobState.DROPPED})


class JobStore:
    """Every change goes through here: decided, committed, then visible."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        # sqlite3 blocks for as long as the disk takes to sync; its commits come from one thread, in order.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker.spool")
        #: What tells our state folder from any other.
        self.home = spool.home()
        self._jobs: dict[JobId, LocalJob] = {job.job_id: job for job in spool.load()}
        self._by_secret: dict[str, JobId] = {job.secret: job.job_id for job in self._jobs.values() if job.secret}
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        #: Called after every change.
        self.on_change: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[LocalJob]:
        return iter(list(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)

    def get(self, job_id: JobId) -> LocalJob | None:
        """Return a job."""
        return self._jobs.get(job_id)

    def current(self, job_id: JobId, fence: Fence) -> LocalJob | None:
        """Return a job if ``fence`` is the one that we hold."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.fence == fence else None

    async def by_secret(self, secret: str) -> LocalJob | None:
        """Return the job whose supervisor knows ``secret``, which may be ready sooner than its job is stored."""
        if secret not in self._by_secret:
            async with self._lock:
                pass  # What was being stored is stored now, or could not be.
        job_id = self._by_secret.get(secret)
        return None if job_id is None else self._jobs.get(job_id)

    def with_process(self) -> list[LocalJob]:
        """Return the jobs whose supervisor may be alive."""
        return [job for job in self._jobs.values() if job.state in WITH_PROCESS]

    async def change(self, job_id: JobId, decide: Callable[[LocalJob | None], LocalJob | None]) -> LocalJob | None:
        """Store what ``decide`` makes of a job; None forgets it. Changes never overlap.

        :raises SpoolError: nothing was changed.
        """
        async with self._lock:
            before = self._jobs.get(job_id)
            after = decide(before)
            if after is before:
                return after
            loop = asyncio.get_running_loop()
            if after is None:
                await loop.run_in_executor(self._thread, self._spool.forget, job_id)
            else:
                await loop.run_in_executor(self._thread, self._spool.store, after)
            self._remember(job_id, before, after)
            return after

    def _remember(self, job_id: JobId, before: LocalJob | None, after: LocalJob | None) -> None:
        if before is not None and before.secret:
            self._by_secret.pop(before.secret, None)
        if after is None:
            self._jobs.pop(job_id, None)
        else:
            self._jobs[job_id] = after
            if after.secret:
                self._by_secret[after.secret] = job_id
        self._changed.set()
        self.on_change()

    async def until(self, condition: Callable[[JobStore], bool]) -> None:
        """Wait until ``condition`` holds; it is looked at after every change."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Finish the commits under way and close the spool."""
        self._thread.shutdown(wait=True)
        self._spool.close()
