"""One job's log as it is shipped: its file, and how far the bridge has it."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_mqtt.broker_bridge.protocol.ids import Fence
from edge_mqtt.worker.core.log_cursor import LogCursor
from edge_mqtt.worker.logs.log_file import LogFile


@dataclass(slots=True)
class ShippedLog:
    """One job's log."""

    file: LogFile
    fence: Fence
    #: Where the job's first byte stands in the file; below 0 when the file has been cut off since.
    base: int
    cursor: LogCursor = field(default_factory=LogCursor)
    #: Bytes of the whole log once the job has ended.
    final_size: int | None = None
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
