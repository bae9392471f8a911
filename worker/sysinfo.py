"""What the worker asks the operating system: who a process is, whether it lives, what time it really is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

#: What is added to the kernel's score of a process that is to be killed before others, as if it used half of the
#: machine's memory more; and the highest score.
OOM_PREFERENCE: Final = 500
OOM_SCORE_MAX: Final = 1000


def boottime() -> float:
    """Return seconds since boot, sleep included: a lease goes on ending while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return what tells this boot of the machine from every other (proc(5))."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


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
    """One process of one boot, not to be taken for a later one with the same pid."""

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

    def alive(self) -> bool:
        """Tell whether that very process still runs."""
        return self.boot == boot_id() and start_time(self.pid) == self.start

    def __str__(self) -> str:
        return f"{self.pid} {self.start} {self.boot}"


async def process_exit(identity: ProcessIdentity) -> None:
    """Wait until that very process has ended; it need not be a child of ours."""
    try:
        descriptor = os.pidfd_open(identity.pid) if identity.alive() else -1
    except OSError:
        descriptor = -1
    if descriptor < 0:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if not identity.alive():
            return
        loop.add_reader(descriptor, ended.set)
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


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
    if not identity.alive():
        return False
    try:
        os.kill(identity.pid, signum)
    except ProcessLookupError:
        return False
    return True


def kill_tree(identity: ProcessIdentity) -> None:
    """Kill a supervisor, its task and everything that they started."""
    below = descendants(identity.pid) if identity.alive() else []
    signal_process(identity, signal.SIGKILL)
    _kill(below)


def kill_below(identity: ProcessIdentity) -> None:
    """Kill everything that a supervisor and its task started, and not the supervisor."""
    if identity.alive():
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
    """Tell whether a process has a child, be it one that has ended and that it has not taken note of."""
    with contextlib.suppress(psutil.Error):
        return bool(psutil.Process(pid).children())
    return False


def oom_kills(cgroup: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processes of this process's control group the kernel has killed for want of memory.

    0 where the kernel does not say. Source: cgroup-v2.rst (``memory.events``), cgroup-v1/memory.rst
    (``memory.oom_control``).
    """
    with contextlib.suppress(OSError, ValueError):
        for line in cgroup.read_text(encoding="utf-8").splitlines():
            _, controllers, path = line.split(":", 2)
            below = path.lstrip("/")
            if "memory" in controllers.split(","):
                return _count(mounts / "memory" / below / "memory.oom_control")
            if not controllers and (mounts / below / "memory.events").exists():
                return _count(mounts / below / "memory.events")
    return 0


def _count(counters: Path) -> int:
    for line in counters.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


def prefer_as_oom_victim(score: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Have the kernel, when it lacks memory, kill this process and what it starts before others.

    Relative, so that an order that somebody has set for the whole service stays. Source: proc(5), oom_score_adj.
    """
    with contextlib.suppress(OSError, ValueError):
        score.write_text(str(min(OOM_SCORE_MAX, int(score.read_text()) + OOM_PREFERENCE)))


def write_atomically(path: Path, data: bytes, *, durable: bool) -> None:
    """Put ``data`` at ``path`` whole or not at all, readable by its owner only.

    :param durable: also survive a loss of power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    temporary.replace(path)


def create_exclusively(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data``; False when it exists. Of several that try, one succeeds."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    return True


def redirect_output(path: Path) -> None:
    """Let this process's stdout and stderr go to the end of a file."""
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
