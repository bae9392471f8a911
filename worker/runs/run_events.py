"""What the rest of the worker is told of runs."""

from __future__ import annotations

from typing import Protocol

from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.ipc.run_outcome import RunOutcome


class RunEvents(Protocol):
    """Who is told, in the loop."""

    def follow_launch(self, job: LocalJob) -> None:
        """Take note that a job's supervisor is about to start, or was found again."""

    async def report_exit(self, job: LocalJob, outcome: RunOutcome) -> None:
        """Take note of how a run ended."""

    async def give_back_job(self, job: LocalJob, reason: str) -> None:
        """Take note that a job could not be started, and never was."""

    async def fail_job(self, job: LocalJob, reason: str) -> None:
        """Take note that a job that waits can never be launched here.

        :raises SpoolError: that could not be stored, and the job goes on waiting.
        """
