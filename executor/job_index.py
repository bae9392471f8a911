"""Which job is the current one of which Airflow key, and which final events Airflow has not yet been seen to handle.

Airflow knows work by key (Dag, task, run, try), the bridge by job. A deferred task is queued again under the same
key as another job, so a key has one current job and late news of an earlier one must not touch it.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobFinished

K = TypeVar("K", bound=Hashable)

#: Seconds until an event that Airflow passed over is offered again for the first time; doubled each time, because
#: Airflow's scheduler does not pause in a loop in which there was an event.
FIRST_REOFFER_S = 1.0
#: Seconds for which an event is offered again. A locked row is free again long before; what is still passed over
#: then belongs to a task instance that is no longer there.
REOFFER_FOR_S = 60.0


@dataclass(slots=True)
class Offer(Generic[K]):
    """A final event in Airflow's event buffer, kept until Airflow has handled it."""

    key: K
    job_id: JobId
    #: What stands in Airflow's event buffer: state and info.
    event: tuple[Any, Any]
    #: Monotonic seconds.
    offered_at: float
    #: When to offer it again, in monotonic seconds; None while Airflow has it.
    due_at: float | None = None
    delay_s: float = FIRST_REOFFER_S

    def plan_reoffer(self, now: float) -> bool:
        """Plan to offer it again; False when that has been tried for long enough."""
        if now - self.offered_at >= REOFFER_FOR_S:
            return False
        self.due_at = now + self.delay_s
        self.delay_s *= 2
        return True


class JobIndex(Generic[K]):
    """Keeps the current job of each key, open offers, and final events of jobs that this executor did not submit."""

    def __init__(self) -> None:
        self._job_of: dict[K, JobId] = {}
        self._key_of: dict[JobId, K] = {}
        self._offers: dict[JobId, Offer[K]] = {}
        self._unclaimed: dict[JobId, tuple[JobFinished, float]] = {}

    def __len__(self) -> int:
        return len(self._key_of)

    def set_current(self, key: K, job_id: JobId) -> JobId | None:
        """Make ``job_id`` the current job of ``key``; return the unfinished one that it takes the place of."""
        earlier = self.remove_key(key)
        self._job_of[key] = job_id
        self._key_of[job_id] = key
        return None if earlier == job_id else earlier

    def remove_key(self, key: K) -> JobId | None:
        """Drop the current job of ``key``; return it."""
        job_id = self._job_of.pop(key, None)
        if job_id is not None:
            del self._key_of[job_id]
        return job_id

    def key_of(self, job_id: JobId) -> K | None:
        """Return the key whose current job this is."""
        return self._key_of.get(job_id)

    def keys(self) -> frozenset[K]:
        """Return the keys that have a current job."""
        return frozenset(self._job_of)

    def add_offer(self, offer: Offer[K]) -> None:
        """Keep a final event that was put into Airflow's event buffer."""
        self._offers[offer.job_id] = offer

    def offers(self) -> tuple[Offer[K], ...]:
        """Return the final events that Airflow has not been seen to handle."""
        return tuple(self._offers.values())

    def is_offered(self, job_id: JobId) -> bool:
        """Tell whether the job's final event has come and is with Airflow."""
        return job_id in self._offers

    def remove_offer(self, job_id: JobId) -> None:
        """Drop an offer: Airflow has handled it, or never will."""
        self._offers.pop(job_id, None)

    def offered_jobs_of(self, key: K) -> tuple[JobId, ...]:
        """Return the jobs of ``key`` whose final event is offered."""
        return tuple(offer.job_id for offer in self._offers.values() if offer.key == key)

    def keep_unclaimed(self, event: JobFinished, now: float) -> None:
        """Keep the final event of a job that this executor does not know (yet)."""
        self._unclaimed.setdefault(event.job_id, (event, now))

    def claim_event(self, job_id: JobId) -> JobFinished | None:
        """Return, and keep no longer, the final event of a job that was adopted."""
        kept = self._unclaimed.pop(job_id, None)
        return None if kept is None else kept[0]

    def expire_unclaimed(self, before: float) -> tuple[JobId, ...]:
        """Drop the unclaimed events that came before ``before``; return their jobs."""
        expired = tuple(job_id for job_id, (_, since) in self._unclaimed.items() if since < before)
        for job_id in expired:
            del self._unclaimed[job_id]
        return expired
