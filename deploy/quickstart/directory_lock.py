"""A folder belongs to one stack at a time."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import IO

from deploy.quickstart.errors import DirectoryInUse
from deploy.quickstart.process import sweep

#: The file by which a folder is known as a stack's; it holds the marker of its processes.
_OWNER_FILE = ".edge-stack"
#: Seconds that processes of a stack that was killed have between SIGTERM and SIGKILL.
_SWEEP_GRACE_S = 5.0


def lock_directory(directory: Path, marker: str) -> IO[str]:
    """Make ``directory`` an empty one of ours; it stays ours until the file that is returned is closed.

    Processes that an earlier stack there was killed too early to stop are stopped now.

    :raises DirectoryInUse: a stack runs there, or there are files that are not a stack's.
    """
    owner = directory / _OWNER_FILE
    if directory.exists() and not owner.exists() and any(directory.iterdir()):
        raise DirectoryInUse(f"{directory} is not empty and not a stack's: name another folder")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _locked(owner)
    _stop_what_runs(lock)
    for path in directory.iterdir():
        if path != owner:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    lock.truncate(0)
    lock.write(marker)
    lock.flush()
    return lock


def stop_left_over(directory: Path) -> None:
    """Stop what a stack in ``directory`` that was killed has left running, so that its ports are free.

    :raises DirectoryInUse: a stack runs there.
    """
    owner = directory / _OWNER_FILE
    if owner.exists():
        with _locked(owner) as lock:
            _stop_what_runs(lock)


def _locked(owner: Path) -> IO[str]:
    lock = owner.open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        raise DirectoryInUse(f"a stack runs in {owner.parent}: stop it first, or name another folder") from None
    return lock


def _stop_what_runs(lock: IO[str]) -> None:
    lock.seek(0)
    if marker := lock.read().strip():
        sweep(marker, grace_s=_SWEEP_GRACE_S)
