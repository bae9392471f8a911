"""Deadlines that are moved far more often than they are reached."""

from __future__ import annotations

import heapq
from typing import Generic, TypeVar

K = TypeVar("K", bound=tuple[str, ...])


class Deadlines(Generic[K]):
    """One deadline a key. Moving one to a later time costs a dict entry: the heap learns of it when it gets there."""

    def __init__(self) -> None:
        self._when: dict[K, float] = {}
        self._heap: list[tuple[float, K]] = []

    def set(self, key: K, when: float) -> None:
        """Let ``key`` be due at ``when``, and at no other time."""
        known = self._when.get(key)
        self._when[key] = when
        if known is None or when < known:
            heapq.heappush(self._heap, (when, key))

    def clear(self, key: K) -> None:
        """Let ``key`` never be due."""
        self._when.pop(key, None)

    def next(self) -> float | None:
        """Return the earliest deadline."""
        while self._heap:
            when, key = self._heap[0]
            actual = self._when.get(key)
            if actual == when:
                return when
            heapq.heappop(self._heap)
            if actual is not None and actual > when:
                heapq.heappush(self._heap, (actual, key))
        return None

    def due(self, now: float) -> list[K]:
        """Return the keys whose deadline is not after ``now``, earliest first, and clear them."""
        keys: list[K] = []
        while (when := self.next()) is not None and when <= now:
            _, key = heapq.heappop(self._heap)
            del self._when[key]
            keys.append(key)
        return keys
