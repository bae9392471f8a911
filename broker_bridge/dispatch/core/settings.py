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
    #: How long a worker is spared a job that it has just refused.
    refusal_backoff_s: float = 5.0
    #: Finished and acknowledged jobs that stay in memory, to recognise what is sent again.
    remembered_jobs: int = 4096
    #: Jobs that are remembered as denied: far more than can be on their way at once.
    remembered_denials: int = 10_000
