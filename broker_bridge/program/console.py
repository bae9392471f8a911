"""One line per event on stderr: time, level, message, then the event's fields."""

from __future__ import annotations

import logging
from typing import Final

#: Attributes that every record has; whatever else it has was given with ``extra``.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """Appends the fields given with ``extra`` as ``key=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the standard library's name
        """Return the line without a traceback."""
        line = super().formatMessage(record)
        fields = [f"{key}={value}" for key, value in vars(record).items() if key not in _STANDARD]
        return f"{line} [{' '.join(fields)}]" if fields else line


def log_to_stderr(level: int) -> None:
    """Send our own records to stderr from ``level`` on, and other libraries' warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(FieldsFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("edge_mqtt").setLevel(level)
