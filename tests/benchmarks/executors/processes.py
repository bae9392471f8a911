"""What processes cost, and how they are made to stand still."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable

import psutil

#: What lets a process be looked at: it may end while it is.
_gone = contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess)


def cpu_seconds(processes: Iterable[psutil.Process], *, but: psutil.Process | None = None) -> float:
    """Return the seconds of CPU that processes have used, with the children that they have waited for.

    :param but: of this one, only the children.
    """
    total = 0.0
    for process in processes:
        with _gone:
            user, system, children_user, children_system = process.cpu_times()[:4]
            total += children_user + children_system + (0.0 if process == but else user + system)
    return total


def pss_bytes(processes: Iterable[psutil.Process]) -> int:
    """Return the proportional set size of processes together: each page is shared out among those that share it."""
    total = 0
    for process in processes:
        with _gone:
            total += process.memory_full_info().pss
    return total


def freeze(find: Callable[[], Iterable[psutil.Process]]) -> None:
    """Stop every process that ``find`` finds, and those that they beget meanwhile."""
    stopped: set[int] = set()
    while running := [process for process in find() if process.pid not in stopped]:
        for process in running:
            stopped.add(process.pid)
            with _gone:
                process.send_signal(signal.SIGSTOP)


def thaw(processes: Iterable[psutil.Process]) -> None:
    """Let processes go on."""
    for process in processes:
        with _gone:
            process.send_signal(signal.SIGCONT)
