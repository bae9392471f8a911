"""Jobs that are asked about by others than the dispatcher: the live ones from memory, those that are over too."""

from __future__ import annotations

from collections import Counter

from edge_mqtt.broker_bridge.dispatch.coalescer import Coalescer
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.core.view import DispatchView
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger
from edge_mqtt.broker_bridge.protocol.ids import JobId


class JobRecords:
    """Every job that was accepted and not purged. Belongs to one event loop; raises what the ledger raises."""

    def __init__(self, view: DispatchView, ledger: AsyncLedger) -> None:
        self._view = view
        self._ledger = ledger
        self._of_logs: Coalescer[tuple[str, JobId], list[Job]] = Coalescer(self._find_of_logs)

    async def get(self, job_id: JobId) -> Job | None:
        """Return a job."""
        live = self._view.get_job(job_id)
        if live is not None:
            return live
        return next(iter(await self._ledger.run(Ledger.get, [job_id])), None)

    async def find_of_log(self, log_path: str, but: JobId) -> list[Job]:
        """Return the jobs that write one log, in order of arrival; ``but`` may be left out."""
        return await self._of_logs.get((log_path, but))

    async def next_sequence(self) -> int:
        """Return the number of the oldest job that a worker holds, or that the next job will get."""
        workers = self._view.workers()
        held = [job.sequence for worker in workers for job in self._view.jobs_of(worker.name)]
        return min(held) if held else await self._ledger.run(Ledger.max_sequence) + 1

    async def _find_of_logs(self, asked: list[tuple[str, JobId]]) -> dict[tuple[str, JobId], list[Job]]:
        by_path: dict[str, list[Job]] = {log_path: [] for log_path, _ in asked}
        # Nearly every log is that of one job. Two jobs of one log that are asked about together need each other.
        times = Counter(log_path for log_path, _ in asked)
        but = {log_path: job_id for log_path, job_id in asked if times[log_path] == 1}
        for job in await self._ledger.run(Ledger.find_of_logs, list(by_path), but):
            by_path[job.spec.log_path or ""].append(job)
        return {(log_path, job_id): by_path[log_path] for log_path, job_id in asked}
