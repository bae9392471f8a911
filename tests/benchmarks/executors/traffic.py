"""What crosses a link, counted: bytes, connections, HTTP requests, and writes of those that do not speak HTTP."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Final, Self

_REQUEST_LINE: Final = re.compile(rb"(?:GET|HEAD|POST|PUT|PATCH|DELETE) \S+ HTTP/1\.[01]\r\n")
#: Bytes of a request line at most: a longer one that comes in pieces is not seen.
_LINE_BYTES: Final = 2048


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What has crossed; "up" is from the worker."""

    bytes_up: int = 0
    bytes_down: int = 0
    connections: int = 0
    #: HTTP requests.
    requests: int = 0
    #: Pieces that came from the worker one by one: for protocols other than HTTP, about its messages.
    writes: int = 0

    @property
    def total_bytes(self) -> int:
        """Bytes in both directions."""
        return self.bytes_up + self.bytes_down

    def __add__(self, other: Self) -> Self:
        """Return both together."""
        return type(self)(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, other: Self) -> Self:
        """Return what has come since ``other``."""
        return type(self)(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})


class RequestCounter:
    """Finds the HTTP requests in one direction of one connection."""

    def __init__(self) -> None:
        self._unfinished = b""

    def feed(self, data: bytes) -> int:
        """Return how many request lines end in ``data``, which goes on from what was fed before."""
        text = self._unfinished + data
        found = list(_REQUEST_LINE.finditer(text))
        rest = text[found[-1].end() :] if found else text
        self._unfinished = rest[-_LINE_BYTES:]
        return len(found)
