"""Buries the processes that become this one's children although it has not started them.

That is so where it is process 1, in a container, and wherever it was made a subreaper: what tasks leave behind would
stay there for ever as defunct processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

from edge_mqtt.worker.system.process import start_time

#: Seconds after which whoever waits for a child of its own, by its pid, has done so.
OWNER_WAIT_S: Final = 1.0


async def bury_adopted_children() -> None:
    """Do so for ever. Needs a loop that gets signals."""
    has_any = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, has_any.set)
    while True:
        await has_any.wait()
        has_any.clear()
        ended = ended_children()
        if ended:
            await asyncio.sleep(OWNER_WAIT_S)
            bury(ended)


def ended_children() -> list[int]:
    """Return the children of this process that have ended, and that nobody has waited for."""
    return [pid for pid in _children() if start_time(pid) is None]


def bury(pids: list[int]) -> None:
    """Wait for children that have ended, but for those that somebody else has waited for."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _children() -> list[int]:
    # Each thread has its own, in a file that the kernel makes (proc_pid_task(5)).
    found: list[int] = []
    for thread in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (thread / "children").read_text(encoding="ascii").split())
    return found
