"""A machine on which the worker is a user of its own, and tasks may be another: nothing of it outlives its process.

A program for root: ``python -m tests.support.other_users SUDOERS USER COMMAND…`` runs a command as another user, in a
mount namespace of its own (mount_namespaces(7)), where SUDOERS stands in the place of /etc/sudoers.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
#: Users that every Debian has: that of the worker, and that of the tasks.
WORKER: Final = "daemon"
TASKS: Final = "nobody"
RULE: Final = f"{WORKER} ALL=({TASKS}) NOPASSWD: SETENV: ALL\n"
#: What the tests need beside root.
_PROGRAMS: Final = ("sudo", "unshare", "mount", "setpriv")


def missing() -> str:
    """Return what this machine lacks for such tests, empty if nothing."""
    if os.geteuid() != 0:
        return "they start programs as other users: run them as root"
    lacking = [name for name in _PROGRAMS if shutil.which(name) is None]
    return f"there is no {', '.join(lacking)} (Debian: sudo, util-linux)" if lacking else ""


def own_cgroup() -> Path:
    """Return this process's control group in the unified hierarchy, in which root can make others.

    :raises AssertionError: this machine has none that can be written.
    """
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()]
    mounted = [Path(fields[1]) for fields in mounts if fields[2] == "cgroup2" and "rw" in fields[3].split(",")]
    assert mounted, "there is no cgroup2 that can be written: a container needs one for these tests"
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    (own,) = (line.removeprefix("0::") for line in lines if line.startswith("0::"))
    return mounted[0] / own.lstrip("/")


def command_as_worker(sudoers: Path) -> list[str]:
    """Return what runs a command as the worker's user."""
    own = ["unshare", "--mount", "--propagation", "private"]
    return [*own, sys.executable, "-m", "tests.support.other_users", str(sudoers), WORKER]


def main() -> None:
    """Be that program."""
    sudoers, user, *command = sys.argv[1:]
    _open_the_way({ROOT, Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable).parent})
    _mount("--bind", sudoers, "/etc/sudoers")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    group = pwd.getpwnam(user).pw_gid
    os.execvp(  # noqa: S606 -- no shell has any business between
        "setpriv", ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", *command]
    )


def _open_the_way(folders: Iterable[Path]) -> None:
    """Let everybody read what is below a folder that only root may enter, his home for example."""
    shut = {
        folder: next((up for up in reversed(folder.parents) if not up.stat().st_mode & 1), None) for folder in folders
    }
    for cover in {up for up in shut.values() if up is not None}:
        below = sorted(folder for folder, up in shut.items() if up == cover)
        held = {folder: os.open(folder, os.O_PATH) for folder in below}
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(cover))
        for folder, descriptor in held.items():
            if not folder.exists():
                folder.mkdir(parents=True)
                # As it is called here: by its own name it is covered now.
                _mount("--no-canonicalize", "--bind", f"/proc/self/fd/{descriptor}", str(folder), held=descriptor)


def _mount(*arguments: str, held: int | None = None) -> None:
    subprocess.run(["mount", *arguments], check=True, pass_fds=() if held is None else (held,))


if __name__ == "__main__":
    main()
