"""One task's log file, read by offset while others write it, cut it off or move it away."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import UTC, datetime
from pathlib import Path


class LogFile:
    """The file at ``path``; held open while it grows, so that it is still the same one when it has been renamed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def size(self) -> int:
        """Return its size in bytes; 0 while there is none.

        :raises OSError: it is there, or may be, and its size cannot be seen.
        """
        # What cannot be opened (no descriptors are left, say) can still be looked at.
        with contextlib.suppress(OSError):
            self._descriptor_of_file()
        try:
            return (self.path.stat() if self._descriptor < 0 else os.fstat(self._descriptor)).st_size
        except FileNotFoundError:
            return 0

    def read(self, length: int, position: int) -> bytes:
        """Return at most ``length`` bytes from ``position`` on.

        :raises OSError: it is gone or cannot be read.
        """
        return os.pread(self._descriptor_of_file(), length, position)

    def close_if_unmoved(self) -> None:
        """Hold it open no longer, unless it has been moved away and could not be found again."""
        with contextlib.suppress(OSError):
            if self._descriptor >= 0 and os.path.samestat(os.fstat(self._descriptor), self.path.stat()):
                self.close()

    def close(self) -> None:
        """Hold it open no longer."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _descriptor_of_file(self) -> int:
        if self._descriptor < 0:
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        return self._descriptor


def append_line(path: Path | None, text: str) -> None:
    """Add a line of our own to a task's log, in the form of Airflow's."""
    if path is None:
        return
    stamp = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    line = json.dumps({"timestamp": stamp, "level": "error", "event": text, "logger": "edge_mqtt.worker"})
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)
