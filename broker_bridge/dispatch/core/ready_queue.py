"""The jobs of one queue that wait for a worker, in their order."""

from __future__ import annotations

import heapq

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.protocol.ids import JobId

Priority = tuple[int, int, int]

#: Heap entries left behind by removed jobs that are worth a rebuild.
_SLACK = 64


class ReadyQueue:
    """A priority queue that jobs can be taken out of anywhere."""

    def __init__(self) -> None:
        self._order: dict[JobId, Priority] = {}
        self._heap: list[tuple[Priority, JobId]] = []

    def __len__(self) -> int:
        return len(self._order)

    def add(self, job: Job) -> None:
        """Put ``job`` in its place."""
        if job.id not in self._order:
            self._order[job.id] = job.order
            heapq.heappush(self._heap, (job.order, job.id))

    def remove(self, job_id: JobId) -> None:
        """Take a job out."""
        self._order.pop(job_id, None)
        if len(self._heap) > 2 * len(self._order) + _SLACK:
            self._heap = [(order, job) for job, order in self._order.items()]
            heapq.heapify(self._heap)

    def head(self) -> tuple[Priority, JobId] | None:
        """Return the first job and its order."""
        while self._heap:
            order, job_id = self._heap[0]
            if self._order.get(job_id) == order:
                return order, job_id
            heapq.heappop(self._heap)
        return None
