"""The times that decisions depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class DispatchSettings:
    """Durations in seconds, what differs by queue, and what is remembered."""

    #: A running job survives its worker's silence for this long; decided when the job is submitted.
    lease_s: float = 935.0
    #: The same for the jobs of some queues.
    lease_s_of: Mapping[str, float] = field(default_factory=dict)
    #: Queues whose jobs keep their logs on the worker.
    queues_keeping_logs: frozenset[str] = frozenset()
    #: Between SIGTERM and SIGKILL on the worker.
    kill_grace_s: float = 10.0
    #: Between two presences of a worker that holds jobs.
    presence_interval_s: float = 20.0
    #: How long an assignment may stay unconfirmed before it is sent again, and after that taken back.
    settle_s: float = 30.0
    #: How long a worker is spared what it has just refused; doubled each time, up to the second.
    refusal_backoff_s: float = 5.0
    refusal_backoff_at_most_s: float = 30.0
    #: A job fails when every worker of its queue has refused it so often: after more than six minutes, in which a
    #: disk can be cleared, and before Airflow takes it back for having waited, which would hide the reason
    #: (``[scheduler] task_queued_timeout``, 10 minutes).
    max_refusals: int = 16
    #: Finished and acknowledged jobs that stay in memory, to recognise what is sent again.
    remembered_jobs: int = 4096
    #: Jobs that are remembered as denied: far more than can be on their way at once.
    remembered_denials: int = 10_000

    def backoff_s(self, refusals: int) -> float:
        """Return how long a worker is spared after so many refusals in a row."""
        # The exponent is bounded: a float is not.
        doubled_s = self.refusal_backoff_s * 2.0 ** (min(refusals, self.max_refusals) - 1)
        return min(doubled_s, self.refusal_backoff_at_most_s)
