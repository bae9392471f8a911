"""Processes: who one is, whether it lives, what it has started, and how all that is killed."""

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


def descendants(pid: int) -> list[psutil.Process]:
    """Return every process below ``pid``, and those of the session that it leads, without itself."""
    found: dict[int, psutil.Process] = {}
    with contextlib.suppress(psutil.Error):
        found = {child.pid: child for child in psutil.Process(pid).children(recursive=True)}
    return list((found | {process.pid: process for process in _session(pid)}).values())


def _session(pid: int) -> list[psutil.Process]:
    """Return the processes of the session that ``pid`` leads or led, without itself."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != pid and os.getsid(process.pid) == pid:
                found.append(process)
    return found


def signal_process(identity: ProcessIdentity, signum: signal.Signals) -> bool:
    """Send ``signum`` to that very process; False when it is gone."""
    if not identity.is_alive():
        return False
    try:
        os.kill(identity.pid, signum)
    except ProcessLookupError:
        return False
    return True


def kill_tree(identity: ProcessIdentity) -> None:
    """Kill a supervisor, its task and everything that they started."""
    below = descendants(identity.pid) if identity.is_alive() else []
    signal_process(identity, signal.SIGKILL)
    _kill(below)


def kill_below(identity: ProcessIdentity) -> None:
    """Kill everything that a supervisor and its task started, and not the supervisor."""
    if identity.is_alive():
        _kill(descendants(identity.pid))


def kill_orphans(identity: ProcessIdentity) -> int:
    """Kill what a supervisor that is dead has left behind; return how many processes there were.

    Its session tells: the kernel gives out no pid that a session still has as its id.
    """
    if identity.boot != boot_id() or start_time(identity.pid) is not None:
        return 0
    orphans = _session(identity.pid)
    _kill(orphans)
    return len(orphans)


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def has_child(pid: int) -> bool:
    """Tell whether a process has a child, be it one that has ended and that it has not waited for."""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).children())
    return False
