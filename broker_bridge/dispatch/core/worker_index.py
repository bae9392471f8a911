"""Which worker takes the next job of a queue: an index that costs the same for ten workers and for thousands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_mqtt.broker_bridge.dispatch.core.model import WorkerView
from edge_mqtt.broker_bridge.dispatch.core.priority_map import PriorityMap
from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.protocol.messages import WorkerState

#: Minus the free slots, number of its last assignment.
Rank = tuple[int, int]


@dataclass(slots=True)
class _QueueWorkers:
    """The workers that serve one queue."""

    serving: set[WorkerName] = field(default_factory=set)
    #: Every worker with a free slot.
    free: PriorityMap[WorkerName, Rank] = field(default_factory=PriorityMap)
    #: Those that hold nothing: they take a job that is larger than they are.
    idle: PriorityMap[WorkerName, Rank] = field(default_factory=PriorityMap)


class WorkerIndex:
    """The free slots of every worker that takes new jobs."""

    def __init__(self) -> None:
        self._queues: dict[str, _QueueWorkers] = {}
        self._served: dict[WorkerName, tuple[str, ...]] = {}

    def update(self, view: WorkerView, used_slots: int) -> None:
        """Take in what a worker is like now.

        :param used_slots: slots that its jobs take.
        """
        queues = tuple(dict.fromkeys(view.queues)) if view.state is WorkerState.ONLINE else ()
        self._serve(view.name, queues)
        free = view.concurrency - used_slots
        rank = (-free, view.last_assigned)
        for queue in queues:
            workers = self._queues[queue]
            if free > 0:
                workers.free.set(view.name, rank)
            else:
                workers.free.discard(view.name)
            if free > 0 and used_slots == 0:
                workers.idle.set(view.name, rank)
            else:
                workers.idle.discard(view.name)

    def remove(self, worker: WorkerName) -> None:
        """Forget a worker."""
        self._serve(worker, ())
        self._served.pop(worker, None)

    def choose(self, queue: str, slots: int, is_barred: Callable[[WorkerName], bool]) -> WorkerName | None:
        """Return who takes a job of ``slots`` of ``queue``: most free slots first, then least recently assigned.

        A job that is larger than a worker takes the whole of it: it fits when the worker is idle.
        """
        workers = self._queues.get(queue)
        if workers is None:
            return None
        best = workers.free.first(is_barred)
        if best is None or -best[0][0] < slots:
            best = workers.idle.first(is_barred)
        return None if best is None else best[1]

    def is_served(self, queue: str) -> bool:
        """Tell whether a worker takes new jobs of ``queue``."""
        return queue in self._queues

    def serving(self, queue: str) -> frozenset[WorkerName]:
        """Return the workers that take new jobs of ``queue``."""
        workers = self._queues.get(queue)
        return frozenset() if workers is None else frozenset(workers.serving)

    def serves(self, worker: WorkerName, queue: str) -> bool:
        """Tell whether ``worker`` takes new jobs of ``queue``."""
        return queue in self._served.get(worker, ())

    def _serve(self, worker: WorkerName, queues: tuple[str, ...]) -> None:
        before = self._served.get(worker, ())
        if before == queues:
            return
        for queue in before:
            workers = self._queues[queue]
            workers.serving.discard(worker)
            workers.free.discard(worker)
            workers.idle.discard(worker)
            if not workers.serving:
                del self._queues[queue]
        for queue in queues:
            self._queues.setdefault(queue, _QueueWorkers()).serving.add(worker)
        self._served[worker] = queues
