"""Keys in the order of a priority that changes far more often than its key comes first."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=str | tuple[str, ...])
P = TypeVar("P", float, tuple[int, int], tuple[int, int, int])

#: Outdated heap entries that are worth a rebuild, besides as many as there are keys.
_SLACK: Final = 64


class PriorityMap(Generic[K, P]):
    """Maps each key to its priority, and finds the lowest.

    A heap that is corrected only where it is looked at: to raise a priority, or to drop a key, costs a dict entry. In
    a list that is always in order (``sortedcontainers``) the same work takes twice as long.
    """

    def __init__(self) -> None:
        self._priorities: dict[K, P] = {}
        #: Of every key one entry, at least, that is not above its priority.
        self._heap: list[tuple[P, K]] = []

    def __len__(self) -> int:
        return len(self._priorities)

    def set(self, key: K, priority: P) -> None:
        """Give ``key`` a priority, and no other."""
        known = self._priorities.get(key)
        self._priorities[key] = priority
        if known is None or priority < known:
            heapq.heappush(self._heap, (priority, key))
            if len(self._heap) > 2 * len(self._priorities) + _SLACK:
                self._heap = [(actual, one) for one, actual in self._priorities.items()]
                heapq.heapify(self._heap)

    def discard(self, key: K) -> None:
        """Take ``key`` out if it is there."""
        self._priorities.pop(key, None)

    def first(self, is_skipped: Callable[[K], bool] | None = None) -> tuple[P, K] | None:
        """Return the lowest priority and its key, of those keys that are not skipped."""
        skipped: list[tuple[P, K]] = []
        found: tuple[P, K] | None = None
        while self._heap and found is None:
            entry = self._heap[0]
            priority, key = entry
            actual = self._priorities.get(key)
            if actual is not None and actual > priority:
                heapq.heapreplace(self._heap, (actual, key))
            elif actual != priority:
                heapq.heappop(self._heap)
            elif is_skipped is not None and is_skipped(key):
                skipped.append(heapq.heappop(self._heap))
            else:
                found = entry
        for entry in skipped:
            heapq.heappush(self._heap, entry)
        return found

    def pop_until(self, limit: P) -> list[K]:
        """Take out the keys whose priority is not above ``limit``, and return them in order."""
        keys: list[K] = []
        while (first := self.first()) is not None and first[0] <= limit:
            keys.append(first[1])
            self.discard(first[1])
        return keys
