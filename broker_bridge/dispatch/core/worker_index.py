"""Which worker takes the next job of a queue: an index that costs the same for ten workers and for thousands."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_mqtt.broker_bridge.dispatch.core.model import WorkerView
from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.protocol.messages import WorkerState

#: Minus the free slots, number of its last assignment, name, version of the entry.
Entry = tuple[int, int, WorkerName, int]

#: Outdated heap entries that are worth a rebuild.
_SLACK = 64


@dataclass(slots=True)
class _QueueWorkers:
    """The workers that serve one queue, best first. An entry counts only in its worker's newest version."""

    serving: set[WorkerName] = field(default_factory=set)
    #: Every worker with a free slot.
    free: list[Entry] = field(default_factory=list)
    #: Those that hold nothing: they take a job that is larger than they are.
    idle: list[Entry] = field(default_factory=list)


class WorkerIndex:
    """The free slots of every worker that takes new jobs."""

    def __init__(self) -> None:
        self._queues: dict[str, _QueueWorkers] = {}
        self._versions: dict[WorkerName, int] = {}
        self._served: dict[WorkerName, tuple[str, ...]] = {}
        self._count = 0

    def update(self, view: WorkerView, used: int) -> None:
        """Take in what a worker is like now.

        :param used: slots that its jobs take.
        """
        queues = tuple(dict.fromkeys(view.queues)) if view.state is WorkerState.ONLINE else ()
        self._serve(view.name, queues)
        self._count += 1
        self._versions[view.name] = self._count
        free = view.concurrency - used
        if free <= 0:
            return
        entry = (-free, view.last_assigned, view.name, self._count)
        for queue in queues:
            workers = self._queues[queue]
            self._push(workers.free, entry, len(workers.serving))
            if used == 0:
                self._push(workers.idle, entry, len(workers.serving))

    def remove(self, worker: WorkerName) -> None:
        """Forget a worker."""
        self._serve(worker, ())
        self._served.pop(worker, None)
        self._versions.pop(worker, None)

    def choose(self, queue: str, slots: int, avoid: Callable[[WorkerName], bool]) -> WorkerName | None:
        """Return who takes a job of ``slots`` of ``queue``: most free slots first, then least recently assigned.

        A job that is larger than a worker takes the whole of it: it fits when the worker is idle.
        """
        workers = self._queues.get(queue)
        if workers is None:
            return None
        best = self._first(workers.free, avoid)
        if best is None or -best[0] < slots:
            best = self._first(workers.idle, avoid)
        return None if best is None else best[2]

    def is_served(self, queue: str) -> bool:
        """Tell whether a worker takes new jobs of ``queue``."""
        return queue in self._queues

    def serves(self, worker: WorkerName, queue: str) -> bool:
        """Tell whether ``worker`` takes new jobs of ``queue``."""
        return queue in self._served.get(worker, ())

    def _serve(self, worker: WorkerName, queues: tuple[str, ...]) -> None:
        before = self._served.get(worker, ())
        if before == queues:
            return
        for queue in before:
            self._queues[queue].serving.discard(worker)
            if not self._queues[queue].serving:
                del self._queues[queue]
        for queue in queues:
            self._queues.setdefault(queue, _QueueWorkers()).serving.add(worker)
        self._served[worker] = queues

    def _push(self, heap: list[Entry], entry: Entry, workers: int) -> None:
        heapq.heappush(heap, entry)
        if len(heap) > 2 * workers + _SLACK:
            heap[:] = [known for known in heap if self._versions.get(known[2]) == known[3]]
            heapq.heapify(heap)

    def _first(self, heap: list[Entry], avoid: Callable[[WorkerName], bool]) -> Entry | None:
        spared: list[Entry] = []
        best: Entry | None = None
        while heap and best is None:
            entry = heap[0]
            if self._versions.get(entry[2]) != entry[3]:
                heapq.heappop(heap)
            elif avoid(entry[2]):
                spared.append(heapq.heappop(heap))
            else:
                best = entry
        for entry in spared:
            heapq.heappush(heap, entry)
        return best
