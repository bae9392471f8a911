"""One job's log as it is shipped: its file, and how far the bridge has it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.worker.core.log_cursor import LogCursor
from edge_mqtt.worker.logs.log_file import LogFile


@dataclass(frozen=True, kw_only=True, slots=True)
class LogEnd:
    """The log of a job that has ended."""

    #: Where its first byte stands in the file.
    base: int
    #: Bytes.
    size: int


@dataclass(slots=True)
class ShippedLog:
    """One job's log."""

    job_id: JobId
    file: LogFile
    fence: Fence
    #: Where the job's first byte stands in the file; below 0 when the file has been cut off since.
    base: int
    #: Sort key among the logs of one file: when its job was launched.
    launch: str = ""
    cursor: LogCursor = field(default_factory=LogCursor)
    #: Bytes of the whole log once the job has ended.
    final_size: int | None = None
    #: Another job's log has what is written to the file at the moment.
    rides: bool = False
    #: That it has ended is stored.
    has_ended: bool = False
    #: The bridge does not want something of it that it does not have.
    is_only_copy: bool = False
    #: Bytes of it that the bridge has stored, as far as it has said so.
    stored: int = 0
    #: Bytes that the log had when it was looked at last.
    seen: int = 0
    #: The file's watch.
    watch: int | None = None
    #: It is there and cannot be read; this has been logged.
    is_unreadable: bool = False

    @property
    def is_shipped(self) -> bool:
        """Whether the bridge has the whole log of a job that has ended."""
        return self.final_size is not None and self.cursor.acked >= self.final_size

    @property
    def end(self) -> int | None:
        """Where the log of a job that has ended ends in the file."""
        return self.base + self.final_size if self.has_ended and self.final_size is not None else None

    def lacks(self, position: int) -> bool:
        """Tell whether bytes of this log that stand before ``position`` in the file are still to be shipped."""
        if self.rides and self.final_size is None:
            return False
        return self.base + self.cursor.acked < (position if self.end is None else min(position, self.end))

    def finish(self) -> None:
        """Let the log end with what was seen last; one that rides is empty, and ends where the file does."""
        if self.final_size is not None:
            return
        if self.rides:
            with contextlib.suppress(OSError):
                self.base = max(self.base, self.file.size())
            self.seen = 0
        self.final_size = self.seen

    def size(self) -> int:
        """Return the bytes that the log has, those included that the file has lost.

        :raises OSError: the file cannot be looked at.
        """
        if self.final_size is not None:
            return self.final_size
        size = self.file.size()
        return self.cursor.sent + size if self._is_cut(size) else size - self.base

    def is_cut(self) -> bool:
        """Tell whether the file has become shorter than what was shipped of it.

        :raises OSError: the file cannot be looked at.
        """
        return self._is_cut(self.file.size())

    def restart_at_cut(self) -> None:
        """Take what a shortened file has now for what comes next."""
        self.base = -self.cursor.sent

    def read(self, length: int) -> bytes:
        """Return at most ``length`` bytes of what comes next.

        :raises OSError: the file is gone or cannot be read.
        """
        try:
            return self.file.read(length, self.base + self.cursor.sent)
        finally:
            if self.final_size is not None:
                self.file.close_if_unmoved()

    def _is_cut(self, size: int) -> bool:
        return not 0 <= self.base + self.cursor.sent <= size
