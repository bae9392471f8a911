"""Time since boot, which no change of the wall clock moves, and what tells one boot from another."""

from __future__ import annotations

import time
from pathlib import Path


def boottime() -> float:
    """Return seconds since boot, sleep included: a lease goes on ending while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return what tells this boot of the machine from every other (proc(5))."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"
