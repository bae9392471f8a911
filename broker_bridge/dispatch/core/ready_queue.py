"""The jobs that wait for a worker, in their order, by queue."""

from __future__ import annotations

from collections.abc import Iterable

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.core.priority_map import PriorityMap
from edge_mqtt.broker_bridge.protocol.ids import JobId

#: A job's sort key in its queue; see :attr:`Job.order`.
Priority = tuple[int, int, int]


class ReadyQueues:
    """A priority queue for each queue that has jobs. Jobs can be taken out anywhere.

    A paused job stands beside its queue: it gets the first worker that may have it, and nothing waits behind it.
    """

    def __init__(self) -> None:
        self._queues: dict[str, PriorityMap[JobId, Priority]] = {}
        self._paused: dict[str, dict[JobId, Priority]] = {}
        #: Queues whose first job may have found a worker since the last matching.
        self.unmatched: set[str] = set()

    def add(self, job: Job, *, is_paused: bool = False) -> None:
        """Put ``job`` in its place."""
        if is_paused:
            self._paused.setdefault(job.spec.queue, {})[job.id] = job.order
        else:
            self._queues.setdefault(job.spec.queue, PriorityMap()).set(job.id, job.order)
        self.unmatched.add(job.spec.queue)

    def remove(self, job: Job) -> None:
        """Take ``job`` out: another one may be first now."""
        name = job.spec.queue
        if self.is_paused(job):
            del self._paused[name][job.id]
            if not self._paused[name]:
                del self._paused[name]
        else:
            queue = self._queues[name]
            queue.discard(job.id)
            if not queue:
                del self._queues[name]
        self.unmatched.add(name)

    def is_paused(self, job: Job) -> bool:
        """Tell whether ``job`` waits beside its queue."""
        return job.id in self._paused.get(job.spec.queue, ())

    def get_paused(self, queue: str) -> list[tuple[Priority, JobId]]:
        """Return the paused jobs of ``queue`` and their order."""
        return [(order, job_id) for job_id, order in self._paused.get(queue, {}).items()]

    def get_head(self, queue: str) -> tuple[Priority, JobId] | None:
        """Return the first job of ``queue`` and its order."""
        jobs = self._queues.get(queue)
        return None if jobs is None else jobs.first()

    def mark_unmatched(self, queues: Iterable[str]) -> None:
        """Have the jobs of some queues matched again: one of their workers has changed."""
        self.unmatched.update(queue for queue in queues if queue in self._queues or queue in self._paused)
