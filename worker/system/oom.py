"""The kernel's out-of-memory killer: whether it was at work, and which process it should kill first."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

#: What is added to the kernel's score of a process that is to be killed before others, as if it used half of the
#: machine's memory more; and the highest score.
OOM_PREFERENCE: Final = 500

OOM_SCORE_MAX: Final = 1000


def oom_kills(cgroup: Path = Path("/proc/self/cgroup"), mounts: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processes of this process's control group the kernel has killed because memory ran out.

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

    Relative, so that a score that is set for the whole service stays. Source: proc(5), oom_score_adj.
    """
    with contextlib.suppress(OSError, ValueError):
        score.write_text(str(min(OOM_SCORE_MAX, int(score.read_text()) + OOM_PREFERENCE)))
