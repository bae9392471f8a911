"""The file of a SQLite ledger: readable by its owner alone, and in one bridge's hands at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerBusy, LedgerTaken, LedgerUnavailable

_OWNER_ONLY: Final = 0o600
_OWNER_ONLY_FOLDER: Final = 0o700


class LedgerFile:
    """A claim on a ledger's file, held by a lock on a file beside it until :meth:`release` or the process's end."""

    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._file = _identity(path)
        self._lock: int | None = lock

    @classmethod
    def claim(cls, database: str | None) -> LedgerFile:
        """Make the folder (0700) and the file (0600) when they are not there, and claim them.

        :raises LedgerBusy: another process has them.
        :raises LedgerError: they cannot be made.
        """
        path = Path(database or "")
        try:
            path.parent.mkdir(mode=_OWNER_ONLY_FOLDER, parents=True, exist_ok=True)
            # SQLite gives its -wal and -shm files the mode of the database.
            os.close(_open_private(path))
            lock = _open_private(path.with_name(f"{path.name}.lock"))
        except OSError as error:
            raise LedgerUnavailable(
                f"ledger {path} can't be used: {error.strerror}: check ledger_url and the folder's owner"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise LedgerBusy(
                f"ledger {path} is in use by another edge-bridge: end that one, or set another ledger_url"
            ) from None
        return cls(path, lock)

    def check(self) -> None:
        """Return when the path still names the file that was claimed: SQLite writes to a deleted one without a word.

        :raises LedgerUnavailable: the file is not there.
        :raises LedgerTaken: another file is.
        """
        try:
            replaced = _identity(self._path) != self._file
        except OSError as error:
            raise LedgerUnavailable(
                f"ledger {self._path} is gone ({error.strerror}): move it back, "
                "or restart edge-bridge to begin with an empty one"
            ) from error
        if replaced:
            raise LedgerTaken(
                f"ledger {self._path} was replaced by another file: this edge-bridge has to stop, "
                "the next start goes on with the new file"
            )

    def release(self) -> None:
        """Let others claim the file."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _open_private(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _OWNER_ONLY)
    os.fchmod(descriptor, _OWNER_ONLY)
    return descriptor
