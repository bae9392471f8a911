"""Importing modules in a process of their own, to see what that does to it."""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import random
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from edge_mqtt.worker.core.imports import NEVER

#: Seconds that importing one module may take.
IMPORT_LIMIT_S: Final = 30
#: Tasks come first (nice(2)).
NICENESS: Final = 10
#: Bytes of memory at most that what is imported ahead may take, however large the machine is.
MOST_MEMORY: Final = 64 * 1024 * 1024
#: The share of the machine's, or the control group's, memory that it may take.
MEMORY_SHARE: Final = 1 / 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Footprint:
    """What an import must not change, because every task would have it from then on; or could not be forked."""

    threads: int
    open_files: frozenset[str]
    signal_handlers: tuple[object, ...]
    environment: dict[str, str]
    import_path: tuple[str, ...]
    log_handlers: tuple[object, ...]
    #: Libraries with random numbers of their own.
    libraries: frozenset[str]
    #: Generators of random numbers, which would give every task the same. Python seeds its own after a fork.
    random_generators: int

    @classmethod
    def of_this_process(cls) -> Footprint:
        """Look."""
        return cls(
            threads=len(list(Path("/proc/self/task").iterdir())),
            open_files=frozenset(_open_files()),
            signal_handlers=tuple(signal.getsignal(number) for number in signal.valid_signals()),
            environment=dict(os.environ),
            import_path=tuple(sys.path),
            log_handlers=(logging.root.level, *logging.root.handlers),
            # The other way round, every module's name would be touched, and its page copied.
            libraries=frozenset(name for name in NEVER if name in sys.modules),
            random_generators=sum(1 for item in gc.get_objects() if _draws(type(item))),
        )

    def changes(self, later: Footprint) -> str:
        """Return what differs, for people; empty if nothing does."""
        names = (field.name for field in fields(self) if getattr(self, field.name) != getattr(later, field.name))
        return ", ".join(name.replace("_", " ") for name in names)


def _open_files() -> Iterable[str]:
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # That of the folder itself is closed by now.
            yield f"{descriptor.name} {descriptor.readlink()}"


def _draws(kind: type) -> bool:
    return issubclass(kind, random.Random) and not issubclass(kind, random.SystemRandom)


def try_imports(names: Iterable[str], output: int, room: int) -> None:
    """Import modules one after another until one does harm; write down how each went.

    The process is to end afterwards; a module that hangs ends it by SIGALRM.

    :param output: a file's descriptor.
    :param room: kilobytes of memory that all together may take.
    """
    os.nice(NICENESS)
    # Short of memory, the kernel shall take this process (proc_pid_oom_score_adj(5)).
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    before = Footprint.of_this_process()
    for name in names:
        if name in sys.modules:
            continue
        os.write(output, f"{name}\n".encode())
        signal.alarm(IMPORT_LIMIT_S)
        memory = own_memory_kb()
        reason = import_or_why_not(name, before)
        taken = max(0, own_memory_kb() - memory)
        room -= taken
        if not reason and room < 0:
            reason = f"it takes {taken // 1024} MB of memory"
        os.write(output, f"{name} {taken} {reason}\n".encode())
        if reason:
            return


def import_or_why_not(name: str, before: Footprint) -> str:
    """Import a module; return what speaks against it, empty if nothing does.

    :param before: what this process was like.
    """
    try:
        importlib.import_module(name)
    except BaseException as error:  # noqa: BLE001 -- whatever it is, a task may do with it what it likes
        return f"importing it fails: {type(error).__name__}"
    harm = before.changes(Footprint.of_this_process())
    return f"importing it changes: {harm}" if harm else ""


def own_memory_kb() -> int:
    """Return this process's kilobytes of memory that are no file's (proc_pid_statm(5))."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE") // 1024


def room_kb(cgroup: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the kilobytes of memory that what is imported ahead may take.

    Source: cgroup-v2.rst (``memory.max``), cgroup-v1/memory.rst (``memory.limit_in_bytes``).
    """
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), *_group_limits(cgroup, mounts)]
    return int(min(MOST_MEMORY, min(limits) * MEMORY_SHARE)) // 1024


def _group_limits(cgroup: Path, mounts: Path) -> Iterable[int]:
    try:
        lines = cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, file = (mounts / "memory", "memory.limit_in_bytes") if controllers else (mounts, "memory.max")
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            try:
                text = (folder / file).read_text(encoding="ascii").strip()
            except OSError:
                text = ""
            if text.isdigit():
                yield int(text)
            if folder == top:
                break
