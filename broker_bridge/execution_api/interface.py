"""What the relay and the heartbeats need of the dispatcher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from edge_mqtt.broker_bridge.dispatch.core.events import Event
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName


class JobReader(Protocol):
    """What is known of jobs now."""

    def get_job(self, job_id: JobId) -> Job | None:
        """Return a live job."""

    def running_jobs(self) -> Iterable[Job]:
        """Return the jobs that run."""

    def is_superseded(self, job_id: JobId) -> bool:
        """Tell whether Airflow has queued the job's task again since."""

    def is_reachable(self, job: Job) -> bool:
        """Tell whether the machine that has the job can be reached."""


class EventSink(Protocol):
    """Where events go."""

    def post(self, event: Event) -> None:
        """Have an event decided about."""

    async def commit(self, event: Event) -> None:
        """Have an event decided about, and wait until what it changed is stored. Raises LedgerError."""

    async def ask_start(self, worker: WorkerName, job_id: JobId, fence: Fence, starter: str) -> str | None:
        """Record the start; return None when granted, else why not. Raises LedgerError."""
