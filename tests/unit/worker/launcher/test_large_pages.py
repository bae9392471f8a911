"""Memory in large pages: what is moved, and that nothing else changes."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

from edge_mqtt.worker.launcher.large_pages import LARGE_BYTES, use_large_pages

MAPS = """\
00400000-00a00000 r-xp 00000000 fe:00 1234                               /usr/bin/python
00a00000-01400000 rw-p 00600000 fe:00 1234                               /usr/bin/python
02100000-02700000 rw-p 00000000 00:00 0                                  [heap]
7f0000000000-7f0000400000 rw-p 00000000 00:00 0 
7f0000500000-7f0000800000 r--p 00000000 00:00 0 
7f0000900000-7f0000b00000 rw-p 00000000 00:00 0 
7f0000c00000-7f0001000000 rw-s 00000000 00:01 99                         /dev/zero (deleted)
7f0002000000-7f0002400000 rw-p 00000000 00:00 0                          [stack]
"""  # noqa: W291 -- the kernel writes them so


def test_whole_large_pages_of_our_own_memory_are_moved_and_no_others(tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.write_text(MAPS)
    asked: list[int] = []

    def refuse_the_heap(address: int) -> bool:
        asked.append(address)
        return address > 0x7F0000000000 - 1

    assert use_large_pages(maps, refuse_the_heap) == 2
    assert asked == [0x2200000, 0x2400000, 0x7F0000000000, 0x7F0000200000]


def test_memory_is_in_large_pages_as_far_as_the_kernel_says_and_holds_what_it_held() -> None:
    words = os.urandom(4096)
    with mmap.mmap(-1, 4 * LARGE_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = words * (len(memory) // len(words))
        count = use_large_pages()
        huge = next(line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "AnonHuge" in line)
        assert int(huge.split()[1]) * 1024 >= count * LARGE_BYTES
        assert memory[:] == words * (len(memory) // len(words))
