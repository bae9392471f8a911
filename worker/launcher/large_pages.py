"""Memory in large pages: what every task's two processes are forked from, and give up at their end.

A fork copies the list of a process's pages, and an end goes through it: 25,000 of them once Airflow is loaded. What
lies in large pages takes a five-hundredth of that.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

#: Bytes of a large page where pages have 4 KiB. Elsewhere the kernel refuses what does not fit.
LARGE_BYTES: Final = 2 << 20
#: Make a large page of these now, whatever the machine's own rule for them says: madvise(2), since Linux 6.1. Kernels
#: before that, and machines that have none left, refuse.
_MADV_COLLAPSE: Final = 25
#: A line about memory of our own in proc_pid_maps(5): written to, of no file, and not a stack.
_OWN: Final = re.compile(r"(?P<first>[0-9a-f]+)-(?P<end>[0-9a-f]+) rw-p [0-9a-f]+ \S+ 0 *(\[heap\])?\n")


def collapse(address: int) -> bool:
    """Move what lies at ``address`` into one large page; False when the kernel would not."""
    madvise = ctypes.CDLL(None).madvise
    return bool(madvise(ctypes.c_void_p(address), ctypes.c_size_t(LARGE_BYTES), _MADV_COLLAPSE) == 0)


def use_large_pages(maps: Path = Path("/proc/self/maps"), collapse_at: Callable[[int], bool] = collapse) -> int:
    """Move this process's memory into large pages as far as it fits; return how many there are."""
    return sum(collapse_at(address) for address in list(_whole_ones(maps)))


def _whole_ones(maps: Path) -> Iterator[int]:
    with maps.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if own := _OWN.fullmatch(line):
                first = -(-int(own["first"], 16) // LARGE_BYTES) * LARGE_BYTES
                yield from range(first, int(own["end"], 16) - LARGE_BYTES + 1, LARGE_BYTES)
