"""The ledger for coroutines: one thread does all of its work: there is one writer, and the loop never waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from edge_mqtt.broker_bridge.dispatch.coalescer import Coalescer
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import LogSelector

T = TypeVar("T")


class AsyncLedger:
    """Runs every call of a :class:`Ledger` in one thread. Raises what the ledger raises."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bridge.ledger")
        self._logs: Coalescer[tuple[str, JobId], list[Job]] = Coalescer(self._same_logs)

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def load_live(self) -> list[Job]:
        """Return the jobs that are not over."""
        return await self._run(self._ledger.load_live)

    async def commit(self, changes: Sequence[Job]) -> None:
        """Store ``changes`` in one transaction."""
        await self._run(lambda: self._ledger.commit(changes))

    async def add(self, changes: Sequence[Job], new: Collection[JobId]) -> list[Job]:
        """Store ``changes`` in one transaction; when some of ``new`` are known, store nothing and return those."""
        return await self._run(lambda: self._ledger.add(changes, new))

    async def probe(self) -> None:
        """Write, and change nothing."""
        await self._run(self._ledger.probe)

    async def get(self, job_ids: Collection[JobId]) -> list[Job]:
        """Return those of ``job_ids`` that are known, finished or not."""
        return await self._run(lambda: self._ledger.get(job_ids))

    async def max_sequence(self) -> int:
        """Return the highest sequence ever stored."""
        return await self._run(self._ledger.max_sequence)

    async def find(self, selector: LogSelector, limit: int) -> list[Job]:
        """Return matching jobs, newest first."""
        return await self._run(lambda: self._ledger.find(selector, limit))

    async def newest_run(self, dag_id: str) -> str | None:
        """Return the run of ``dag_id`` whose job was queued last."""
        return await self._run(lambda: self._ledger.newest_run(dag_id))

    async def same_log(self, log_path: str, but: JobId) -> list[Job]:
        """Return the jobs that write ``log_path``, oldest first; ``but`` may be left out."""
        return await self._logs.get((log_path, but))

    async def _same_logs(self, asked: list[tuple[str, JobId]]) -> dict[tuple[str, JobId], list[Job]]:
        by_path: dict[str, list[Job]] = {log_path: [] for log_path, _ in asked}
        # Nearly every log is that of one job. Two jobs of one log that are asked about together need each other.
        times = Counter(log_path for log_path, _ in asked)
        but = {log_path: job_id for log_path, job_id in asked if times[log_path] == 1}
        for job in await self._run(lambda: self._ledger.same_log(list(by_path), but)):
            by_path[job.spec.log_path or ""].append(job)
        return {(log_path, job_id): by_path[log_path] for log_path, job_id in asked}

    async def unsaid(self) -> list[JobId]:
        """Return jobs whose log stays on its worker without a line that says so."""
        return await self._run(self._ledger.unsaid)

    async def unacknowledged(self, finished_before: float) -> list[JobId]:
        """Return jobs that finished before a Unix time in seconds and whose end nobody acknowledged."""
        return await self._run(lambda: self._ledger.unacknowledged(finished_before))

    async def purge(self, finished_before: float) -> int:
        """Delete jobs that finished before a Unix time in seconds; return how many."""
        return await self._run(lambda: self._ledger.purge(finished_before))

    async def close(self) -> None:
        """Close the ledger and end its thread."""
        await self._run(self._ledger.close)
        self._thread.shutdown()
