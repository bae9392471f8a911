"""Threads where there must be one only: a process that is forked by another with threads may wait for ever.

A lock that a thread holds at that moment stays locked in the new process, which has no such thread.
"""

from __future__ import annotations

import threading
from pathlib import Path


def other_threads() -> tuple[str, ...]:
    """Return the names of this process's threads but this one; of those that Python does not know, how many."""
    known = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    unknown = len(list(Path("/proc/self/task").iterdir())) - 1 - len(known)
    return (*known, *((f"{unknown} of libraries",) if unknown > 0 else ()))
