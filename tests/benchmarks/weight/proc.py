"""What the kernel says about processes: memory, CPU, and how often they woke (proc(5))."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

#: Bytes in a megabyte as memory is counted here.
MB = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """What some processes have used since they began."""

    cpu_s: float = 0.0
    #: How often a thread has waited for something and was woken.
    wakeups: int = 0

    def since(self, before: Use) -> Use:
        """Return what was used after ``before``."""
        return Use(cpu_s=self.cpu_s - before.cpu_s, wakeups=self.wakeups - before.wakeups)


def family(pid: int) -> list[int]:
    """Return a process and all it has started that run now."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    return []


def proportional_mb(pids: Iterable[int]) -> float:
    """Return the memory of these processes; what several share is counted once, by shares (PSS)."""
    return sum(_kilobytes(_read(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in pids) * 1024 / MB


def used(pids: Iterable[int]) -> Use:
    """Return what these processes' living threads have used."""
    cpu_ns = wakeups = 0
    for pid in pids:
        for task in _entries(f"/proc/{pid}/task"):
            cpu_ns += int((_read(f"{task}/schedstat").split() or ["0"])[0])
            wakeups += _kilobytes(_read(f"{task}/status"), "voluntary_ctxt_switches")
    return Use(cpu_s=cpu_ns / 1e9, wakeups=wakeups)


def _kilobytes(text: str, field: str) -> int:
    line = next((line for line in text.splitlines() if line.startswith(f"{field}:")), f"{field}: 0")
    return int(line.split()[1])


def _entries(folder: str) -> list[Path]:
    try:
        return list(Path(folder).iterdir())
    except OSError:
        return []


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
