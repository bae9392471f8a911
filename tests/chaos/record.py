"""What was done to the system, as far as it explains what its tasks went through."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.evidence import Try
from tests.chaos.faults import Kind

#: Seconds that a worker may take to be back after a fault: it tries at ever longer intervals.
_WAY_BACK_S = 90.0


class Silence(NamedTuple):
    """A worker, or every one of them (None), may have had no contact; in Unix seconds."""

    worker: str | None
    since: float
    until: float


@dataclass(kw_only=True)
class Record:
    """Times are Unix seconds."""

    faults: Counter[str] = field(default_factory=Counter)
    #: Tries whose process was killed.
    killed: set[Try] = field(default_factory=set)
    #: Machines whose processes were all killed at once, and when.
    reboots: list[tuple[str, float]] = field(default_factory=list)
    #: Tries whose worker was out of reach for longer than they may be.
    outages: list[Try] = field(default_factory=list)
    #: Faults in which a worker may lose contact.
    silences: list[Silence] = field(default_factory=list)
    #: Task instances (run, task, map index) that were stopped through the REST API.
    stopped: dict[tuple[str, str, int], Kind] = field(default_factory=dict)
    #: When a scheduler died.
    scheduler_deaths: list[float] = field(default_factory=list)
    #: When PostgreSQL was killed: Airflow's own services may end of that.
    database_deaths: list[float] = field(default_factory=list)
    #: Services of Airflow that ended by themselves after that, and were started again.
    fell: Counter[str] = field(default_factory=Counter)
    #: What was seen to be wrong meanwhile.
    problems: list[str] = field(default_factory=list)

    def rebooted(self, worker: str | None, since: float, until: float) -> bool:
        """Tell whether a machine was rebooted between two moments."""
        return any(worker == name and since <= at <= until for name, at in self.reboots)

    def silent(self, worker: str | None, since: float, until: float) -> bool:
        """Tell whether a worker may have been without contact between two moments, its way back included."""
        return any(
            silence.worker in (None, worker) and silence.since <= until and since <= silence.until + _WAY_BACK_S
            for silence in self.silences
        )

    def scheduler_deaths_between(self, since: float, until: float) -> int:
        """Return how often Airflow lost a scheduler, or the database under it, between two moments."""
        return sum(since <= at <= until for at in (*self.scheduler_deaths, *self.database_deaths))
