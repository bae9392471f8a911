"""A control group for each run: what tells all that a task has started, and ends it whoever's it is.

Only below a group that was handed to the worker (``Delegate=yes`` in its unit, or one of its user's own); elsewhere
there is none, and the processes themselves are looked for. Source: cgroup-v2.rst (``cgroup.procs``,
``cgroup.kill``), and CGROUP_DELEGATION.md of systemd.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache
from pathlib import Path
from typing import Final, Self

_PREFIX: Final = "run-"
_TYPE: Final = "cgroup2"
#: How systemd marks a group that it has handed over.
_DELEGATED: Final = ("user.delegate", "trusted.delegate")


class RunCgroup:
    """The control group of one run, if there is one.

    :param path: where; None where there can be none.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @classmethod
    def of(cls, run: str) -> Self:
        """Return the group of a run.

        :param run: tells it from any other.
        """
        own = delegated_cgroup()
        return cls(None if own is None else own / f"{_PREFIX}{run}")

    def create(self) -> None:
        """Create it, if that is possible."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.mkdir()

    def join(self) -> None:
        """Move this process into it, if it is there; what it starts from now on is in it too."""
        self._write("cgroup.procs", "0")

    def pids(self) -> list[int]:
        """Return the processes that are in it."""
        if self._path is None:
            return []
        try:
            return [int(line) for line in (self._path / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def kill(self) -> None:
        """Send SIGKILL to all that is in it, other users' processes too (since Linux 5.14)."""
        self._write("cgroup.kill", "1")

    def remove(self) -> None:
        """Remove it, unless something is in it."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.rmdir()

    def _write(self, name: str, text: str) -> None:
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path / name, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)


def remove_empty_cgroups() -> None:
    """Remove the groups of runs in which nothing is any more."""
    own = delegated_cgroup()
    for path in () if own is None else own.glob(f"{_PREFIX}*"):
        RunCgroup(path).remove()


@cache
def delegated_cgroup() -> Path | None:
    """Return the control group of this process, if we may divide it; of a task's own process it is another."""
    return find_delegated()


def find_delegated(mounts: Path = Path("/proc/self/mounts"), cgroup: Path = Path("/proc/self/cgroup")) -> Path | None:
    """Return the group that ``cgroup`` names, if it was handed to us."""
    try:
        fields = [line.split() for line in mounts.read_text(encoding="utf-8").splitlines()]
        mounted = next((Path(each[1]) for each in fields if each[2] == _TYPE), None)
        lines = cgroup.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    below = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), None)
    if mounted is None or below is None:
        return None
    own = mounted / below.lstrip("/")
    return own if _is_ours(own) else None


def _is_ours(group: Path) -> bool:
    if not os.access(group / "cgroup.procs", os.W_OK) or not os.access(group, os.W_OK):
        return False
    # The superuser may write everywhere; that does not make it his.
    return os.geteuid() != 0 or any(_is_marked(group, name) for name in _DELEGATED)


def _is_marked(group: Path, name: str) -> bool:
    with contextlib.suppress(OSError):
        return os.getxattr(group, name) == b"1"
    return False
