"""The jobs of this worker: in memory for all of its parts, in the spool before anything is told of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.jobs.spool import Spool

#: States of jobs whose supervisor may be alive.
SUPERVISED: Final = frozenset({LocalJobState.LAUNCHED, LocalJobState.DROPPED})


class JobStore:
    """Every change of a job goes through :meth:`change_job`: decided, committed, then visible.

    All methods belong to the loop; commits are made in a thread of the store's own, one after another. When
    :meth:`change_job` returns, the change is on the disk, synced; only then do other methods show it, and listeners
    are called, in the loop, in the order in which they were added. When it raises :class:`SpoolError`, nothing has
    changed, neither on the disk nor here. Jobs do not change themselves: a :class:`LocalJob` that was returned once
    stays as it was, and ``is`` tells whether it is still the present one. :meth:`close` comes last.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        # sqlite3 blocks for as long as the disk takes to sync; its commits come from one thread, in order.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="worker.spool")
        #: What tells our state folder from any other.
        self.home = spool.home()
        self._jobs: dict[JobId, LocalJob] = {job.job_id: job for job in spool.load_jobs()}
        self._by_secret: dict[str, JobId] = {job.secret: job.job_id for job in self._jobs.values() if job.secret}
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []

    def __iter__(self) -> Iterator[LocalJob]:
        return iter(list(self._jobs.values()))

    def __len__(self) -> int:
        return len(self._jobs)

    def add_listener(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after every change."""
        self._listeners.append(listener)

    def get(self, job_id: JobId) -> LocalJob | None:
        """Return a job."""
        return self._jobs.get(job_id)

    def get_current(self, job_id: JobId, fence: Fence) -> LocalJob | None:
        """Return a job if ``fence`` is the one that we have."""
        job = self._jobs.get(job_id)
        return job if job is not None and job.fence == fence else None

    async def find_by_secret(self, secret: str) -> LocalJob | None:
        """Return the job whose supervisor knows ``secret``, which may be ready sooner than its job is stored."""
        if secret not in self._by_secret:
            async with self._lock:
                pass  # What was being stored is stored now, or could not be.
        job_id = self._by_secret.get(secret)
        return None if job_id is None else self._jobs.get(job_id)

    def list_supervised(self) -> list[LocalJob]:
        """Return the jobs whose supervisor may be alive."""
        return [job for job in self._jobs.values() if job.state in SUPERVISED]

    async def change_job(
        self, job_id: JobId, decide: Callable[[LocalJob | None], LocalJob | None]
    ) -> LocalJob | None:
        """Store what ``decide`` makes of a job, durably; None forgets it. Changes never overlap.

        :param decide: returns what it is given when nothing is to change.
        :raises SpoolError: nothing was changed.
        """
        async with self._lock:
            before = self._jobs.get(job_id)
            after = decide(before)
            if after is before:
                return after
            loop = asyncio.get_running_loop()
            if after is None:
                await loop.run_in_executor(self._thread, self._spool.delete_job, job_id)
            else:
                await loop.run_in_executor(self._thread, self._spool.store_job, after)
            self._record_change(job_id, before, after)
            return after

    def _record_change(self, job_id: JobId, before: LocalJob | None, after: LocalJob | None) -> None:
        if before is not None and before.secret:
            self._by_secret.pop(before.secret, None)
        if after is None:
            self._jobs.pop(job_id, None)
        else:
            self._jobs[job_id] = after
            if after.secret:
                self._by_secret[after.secret] = job_id
        self._changed.set()
        for listener in self._listeners:
            listener()

    async def wait_until(self, condition: Callable[[JobStore], bool]) -> None:
        """Wait until ``condition`` holds; it is looked at after every change."""
        while not condition(self):
            self._changed.clear()
            await self._changed.wait()

    def close(self) -> None:
        """Finish the commits under way and close the spool."""
        self._thread.shutdown(wait=True)
        self._spool.close()
