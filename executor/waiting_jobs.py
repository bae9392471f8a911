"""Which jobs have not started, since when, and when Airflow is to be asked whether it still waits for them."""

from __future__ import annotations

from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import JobId

#: Seconds between two looks. A job that starts sooner, as nearly every one does, costs no query.
LOOK_EVERY_S: Final = 10.0


class WaitingJobs:
    """Jobs that wait for a worker as far as this executor knows. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._since: dict[JobId, float] = {}
        self._queue_of: dict[JobId, str] = {}
        self._look_at = 0.0

    def __len__(self) -> int:
        return len(self._since)

    def add(self, job_id: JobId, now: float, *, queue: str = "") -> None:
        """Take note that a job waits; it may do so already.

        :param queue: where, when that is known.
        """
        self._since.setdefault(job_id, now)
        self._queue_of.setdefault(job_id, queue)

    def remove(self, job_id: JobId) -> None:
        """Take note that a job has started, has ended, or is no concern of this executor any more."""
        self._since.pop(job_id, None)
        self._queue_of.pop(job_id, None)

    def due(self, now: float) -> tuple[JobId, ...]:
        """Return the jobs to ask Airflow about now: now and then those that have waited for a while."""
        if now < self._look_at:
            return ()
        self._look_at = now + LOOK_EVERY_S
        return tuple(job_id for job_id, since in self._since.items() if now - since >= LOOK_EVERY_S)

    def waited_s(self, job_id: JobId, now: float) -> float:
        """Return for how long a job has waited, in seconds."""
        return now - self._since.get(job_id, now)

    def queue_of(self, job_id: JobId) -> str:
        """Return the queue of a job; empty when it is not known."""
        return self._queue_of.get(job_id, "")
