"""Files that several jobs write at the same time: every byte is shipped once, as part of one job's log.

Where the template of log paths has no map index, the mapped tasks of a run share a file. Nobody can tell who wrote
which of its bytes, so the log of the job that was launched first has all that is written until this job ends. Then
the next one's goes on from there; those that end meanwhile have an empty log of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cachetools import FIFOCache

from edge_mqtt.worker.logs.shipped_log import ShippedLog

#: Files that are remembered as not to be deleted.
ONLY_COPIES: Final = 10_000


class FileShares:
    """The logs of every file, in the order in which their jobs were launched, which a restart does not change."""

    def __init__(self) -> None:
        self._of_file: dict[Path, list[ShippedLog]] = {}
        #: Files with something that is nowhere else.
        self._only_copies: FIFOCache[Path, None] = FIFOCache(ONLY_COPIES)

    def join(self, shipped: ShippedLog) -> None:
        """Take note of a log."""
        logs = self._of_file.setdefault(shipped.file.path, [])
        logs.append(shipped)
        logs.sort(key=lambda each: each.launch)
        _choose(logs)

    def end(self, shipped: ShippedLog) -> None:
        """Take note that a job has ended, and its log with it."""
        _choose(self._of_file[shipped.file.path])

    def leave(self, shipped: ShippedLog) -> None:
        """Forget a log; what the centre does not have of it may be others' too."""
        logs = self._of_file[shipped.file.path]
        logs.remove(shipped)
        if shipped.is_only_copy or (not shipped.rides and shipped.stored < shipped.seen):
            self.keep(shipped.file.path)
        if not logs:
            del self._of_file[shipped.file.path]
        elif shipped.end is None and not shipped.rides:
            _choose(logs, shipped.base + shipped.stored)

    def keep(self, path: Path) -> None:
        """Take note that a file has something that is nowhere else."""
        self._only_copies[path] = None

    def is_copied(self, shipped: ShippedLog) -> bool:
        """Tell whether the centre has all of a file, whose last log this one is."""
        path = shipped.file.path
        if self._of_file[path] != [shipped] or path in self._only_copies or shipped.is_only_copy:
            return False
        try:
            return shipped.is_shipped and shipped.end is not None and path.stat().st_size <= shipped.end
        except OSError:
            return False

    def is_passed(self, shipped: ShippedLog) -> bool:
        """Tell whether nothing is to be shipped any more, by whichever job, of what the file had at a job's end."""
        others = self._of_file[shipped.file.path]
        return not any(other.lacks(shipped.end or 0) for other in others if other is not shipped)

    def writers(self, shipped: ShippedLog) -> tuple[ShippedLog, ...]:
        """Return the logs of a log's file, itself included."""
        return tuple(self._of_file[shipped.file.path])

    def find_successor(self, shipped: ShippedLog) -> ShippedLog | None:
        """Return the log that has what is written to a log's file by now; None when there is no other."""
        logs = self._of_file[shipped.file.path]
        return next((log for log in logs if log is not shipped and log.end is None and not log.rides), None)


def _choose(logs: list[ShippedLog], behind: int = 0) -> None:
    """Let the first log that goes on have what is written from now on.

    :param behind: what stands before this in the file is not to be shipped again.
    """
    going_on = [log for log in logs if log.end is None]
    if not going_on:
        return
    first, *others = going_on
    for other in others:
        other.rides = True
    first.rides = False
    if first.cursor.sent == 0:
        ends = [log.end for log in logs[: logs.index(first)] if log.end is not None]
        first.base = max(first.base, behind, *ends)
