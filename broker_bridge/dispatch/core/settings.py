"""The times that decisions depend on."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DispatchSettings:
    """Durations in seconds, and one bound."""

    #: A running job survives its worker's silence for this long.
    offline_grace_s: float = 900.0
    #: Between SIGTERM and SIGKILL on the worker.
    kill_grace_s: float = 10.0
    #: Between two presences of a worker that holds jobs.
    presence_interval_s: float = 20.0
    #: How long an assignment may stay unconfirmed before it is sent again, and after that taken back.
    settle_s: float = 30.0
    #: How long a worker is spared a job that it has just refused.
    refusal_pause_s: float = 5.0
    #: Finished and acknowledged jobs that stay in memory, to recognise what is sent again.
    remembered_jobs: int = 4096
