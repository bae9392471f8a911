"""The jobs that wait for a worker, in their order, by queue."""

from __future__ import annotations

from collections.abc import Iterable

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.core.priority_map import PriorityMap
from edge_mqtt.broker_bridge.protocol.ids import JobId

#: A job's sort key in its queue; see :attr:`Job.order`.
Priority = tuple[int, int, int]


class ReadyQueues:
    """A priority queue for each queue that has jobs. Jobs can be taken out anywhere."""

    def __init__(self) -> None:
        self._queues: dict[str, PriorityMap[JobId, Priority]] = {}
        #: Queues whose first job may have found a worker since the last matching.
        self.unmatched: set[str] = set()

    def add(self, job: Job) -> None:
        """Put ``job`` in its place."""
        self._queues.setdefault(job.spec.queue, PriorityMap()).set(job.id, job.order)
        self.unmatched.add(job.spec.queue)

    def remove(self, job: Job) -> None:
        """Take ``job`` out: another one may be first now."""
        queue = self._queues[job.spec.queue]
        queue.discard(job.id)
        if not queue:
            del self._queues[job.spec.queue]
        self.unmatched.add(job.spec.queue)

    def get_head(self, queue: str) -> tuple[Priority, JobId] | None:
        """Return the first job of ``queue`` and its order."""
        jobs = self._queues.get(queue)
        return None if jobs is None else jobs.first()

    def mark_unmatched(self, queues: Iterable[str]) -> None:
        """Have the jobs of some queues matched again: one of their workers has changed."""
        self.unmatched.update(queue for queue in queues if queue in self._queues)
