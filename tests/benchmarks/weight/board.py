"""A small machine: a memory limit of the kernel's (cgroup, version 1 or 2) around what is started inside it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.benchmarks.weight.proc import MB

ROOT = Path("/sys/fs/cgroup")
#: Seconds between looks at the memory in use.
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class _Files:
    """What one version of cgroups calls things."""

    parent: Path
    limit: str
    peak: str
    #: The file with the number of times that the kernel has killed for want of memory, and the key there.
    kills: str
    #: The key in memory.stat of what cannot be dropped and read again.
    anonymous: str
    #: The file that forbids to swap, and what to write into it.
    no_swap: tuple[str, str]


_V2 = _Files(ROOT, "memory.max", "memory.peak", "memory.events", "anon", ("memory.swap.max", "0"))
_V1 = _Files(
    ROOT / "memory",
    "memory.limit_in_bytes",
    "memory.max_usage_in_bytes",
    "memory.oom_control",
    "rss",
    ("memory.swappiness", "0"),
)


class NoLimits(Exception):
    """This user or this machine cannot limit memory by cgroup."""


class Board:
    """A group of processes that has so much memory and no more; files that they read count too."""

    def __init__(self, name: str, *, memory_mb: float) -> None:
        """Describe it.

        :raises NoLimits: nobody may make one here.
        """
        self._files = _V2 if (ROOT / "cgroup.controllers").exists() else _V1
        self._folder = self._files.parent / f"edge-mqtt-{name}-{os.getpid()}"
        self._memory_mb = memory_mb
        self._over = threading.Event()
        self._watching = threading.Thread(target=self._watch, name="board")
        #: Megabytes at most of what cannot be dropped and read again: data, not programs.
        self.data_peak_mb = 0.0

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir()
            self._write(self._files.limit, str(int(self._memory_mb * MB)))
        except OSError as error:
            raise NoLimits(f"{self._folder}: {error.strerror}") from error
        with contextlib.suppress(OSError):  # a machine without swap
            self._write(*self._files.no_swap)
        self._watching.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._watching.join()
        with contextlib.suppress(OSError):  # something still runs in it
            self._folder.rmdir()

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Have what is started meanwhile run on the board."""
        home = _own_group(self._files)
        self._write("cgroup.procs", str(os.getpid()))
        try:
            yield
        finally:
            (home / "cgroup.procs").write_text(str(os.getpid()))

    @property
    def peak_mb(self) -> float:
        """Megabytes in use at most, files that were read included; the limit when they had to be dropped."""
        return int(self._read(self._files.peak)) / MB

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed for want of memory."""
        return field_of(self._read(self._files.kills), "oom_kill")

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S):
            now_mb = field_of(self._read("memory.stat"), self._files.anonymous) / MB
            self.data_peak_mb = max(self.data_peak_mb, now_mb)

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text()

    def _write(self, name: str, text: str) -> None:
        (self._folder / name).write_text(text)


def _own_group(files: _Files) -> Path:
    """Return the folder of the group that this process is in."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(",") or (files is _V2 and not controllers):
            return files.parent / path.lstrip("/")
    raise NoLimits("this process is in no group that limits memory")


def field_of(text: str, name: str) -> int:
    """Return the number behind ``name``, 0 when there is none."""
    return next((int(line.split()[1]) for line in text.splitlines() if line.split()[0] == name), 0)


def forget_files(folder: Path) -> None:
    """Have the kernel drop the files below ``folder`` from memory: who reads them next is charged with them."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
