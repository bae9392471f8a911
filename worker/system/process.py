"""Processes: who one is, whether it lives, and how it gets a signal."""

from __future__ import annotations

import contextlib
import os
import signal
from dataclasses import dataclass
from pathlib import Path

import psutil

from edge_mqtt.worker.system.boot_clock import boot_id


def start_time(pid: int) -> int | None:
    """Return when ``pid`` was started, in clock ticks since boot (proc_pid_stat(5)); None when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The command's name stands in parentheses and may itself contain some.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    return int(fields[19])


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessIdentity:
    """One process of one boot, never confused with a later one of the same pid."""

    pid: int
    start: int
    boot: str

    @classmethod
    def of_this(cls) -> ProcessIdentity:
        """Return the identity of the calling process."""
        pid = os.getpid()
        return cls(pid=pid, start=start_time(pid) or 0, boot=boot_id())

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity | None:
        """Read what :meth:`__str__` wrote; None when it is something else."""
        parts = text.split()
        if len(parts) != 3 or not (parts[0].isdigit() and parts[1].isdigit()):
            return None
        return cls(pid=int(parts[0]), start=int(parts[1]), boot=parts[2])

    def is_alive(self) -> bool:
        """Tell whether that very process still runs."""
        return self.boot == boot_id() and start_time(self.pid) == self.start

    def __str__(self) -> str:
        return f"{self.pid} {self.start} {self.boot}"


def signal_process(identity: ProcessIdentity, signum: signal.Signals) -> bool:
    """Send ``signum`` to that very process; False when it is gone."""
    if not identity.is_alive():
        return False
    try:
        os.kill(identity.pid, signum)
    except ProcessLookupError:
        return False
    return True


def has_child(pid: int) -> bool:
    """Tell whether a process has a child, be it one that has ended and that it has not waited for."""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).children())
    return False
