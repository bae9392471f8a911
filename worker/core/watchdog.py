"""Which supervisors have made no call for too long."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import JobId

#: Looks without a call after which a supervisor counts as hung. Looks are counted, not seconds: however long the
#: whole machine sleeps, or we are stopped ourselves, that is one look, and then the supervisors have time for a call.
LOOKS: Final = 12


class Watchdog:
    """Counts, for each job, the looks since its supervisor's last call."""

    def __init__(self) -> None:
        self._looks: dict[JobId, int] = {}

    def record_call(self, job_id: JobId) -> None:
        """Take note of a call."""
        self._looks[job_id] = 0

    def find_hung(self, jobs: Collection[JobId], *, waiting: Collection[JobId]) -> list[JobId]:
        """Count a look; return those of ``jobs`` that have made no call for too many.

        :param waiting: those that wait for an answer of ours: they have nothing to ask until they have it.
        """
        self._looks = {job_id: 0 if job_id in waiting else self._looks.get(job_id, 0) + 1 for job_id in jobs}
        return [job_id for job_id, looks in self._looks.items() if looks > LOOKS]
