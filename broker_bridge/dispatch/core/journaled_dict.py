"""A dict that can go back to its last checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")


class _Absent:
    """Stands for "was not there"."""


_ABSENT: Final = _Absent()


class JournaledDict(Generic[K, V]):
    """Remembers, for every key touched since the checkpoint, what it held then."""

    def __init__(self) -> None:
        self._items: dict[K, V] = {}
        self._before: dict[K, V | _Absent] = {}

    @overload
    def get(self, key: K) -> V | None: ...

    @overload
    def get(self, key: K, default: V) -> V: ...

    def get(self, key: K, default: V | None = None) -> V | None:
        """Return what ``key`` holds, else ``default``."""
        return self._items.get(key, default)

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __contains__(self, key: K) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[K]:
        """Iterate over a copy, so that the caller may change the dict meanwhile."""
        return iter(list(self._items))

    def items(self) -> Iterator[tuple[K, V]]:
        """Iterate over a copy, so that the caller may change the dict meanwhile."""
        return iter(list(self._items.items()))

    def values(self) -> Iterator[V]:
        """Iterate over a copy, so that the caller may change the dict meanwhile."""
        return iter(list(self._items.values()))

    def put(self, key: K, value: V) -> None:
        """Let ``key`` hold ``value``."""
        self._touch(key)
        self._items[key] = value

    def drop(self, key: K) -> None:
        """Let ``key`` hold nothing."""
        if key in self._items:
            self._touch(key)
            del self._items[key]

    def checkpoint(self) -> None:
        """Forget what was before."""
        self._before.clear()

    def rollback(self) -> None:
        """Return to the last checkpoint."""
        for key, value in self._before.items():
            if isinstance(value, _Absent):
                self._items.pop(key, None)
            else:
                self._items[key] = value
        self._before.clear()

    def _touch(self, key: K) -> None:
        if key not in self._before:
            self._before[key] = self._items.get(key, _ABSENT)
