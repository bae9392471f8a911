"""A program's own log lines on stderr: for people, or one JSON object a line. Both show what ``extra`` was given."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

#: The values of the setting ``log_format``.
TEXT: Final = "text"
JSON: Final = "json"
#: Attributes that every record has; whatever else it has was given with ``extra``.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class FieldsFormatter(logging.Formatter):
    """One line: the message, then the fields as ``key=value``. Only a traceback takes more lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the standard library's name
        """Return the line without a traceback."""
        line = _on_one_line(super().formatMessage(record))
        fields = " ".join(f"{key}={_quoted(str(value))}" for key, value in _fields(record))
        return f"{line} [{fields}]" if fields else line


class JsonFormatter(logging.Formatter):
    """One JSON object: ``timestamp`` (UTC), ``level``, ``logger``, ``message``, the fields, and ``exception``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        document: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key, value in _fields(record):
            document.setdefault(key, value)
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            document["stack"] = self.formatStack(record.stack_info)
        # Letters of other alphabets as escapes: stderr's encoding may not have them.
        return json.dumps(document, default=str)


def log_to_stderr(level: int, log_format: str = TEXT) -> None:
    """Send our own records to stderr from ``level`` on, and other libraries' warnings.

    May be called again, when it is known better how.

    :param log_format: ``text``, which has colours on a terminal, or ``json``.
    """
    root = logging.getLogger()
    root.handlers[:] = [_handler(log_format)]
    root.setLevel(logging.WARNING)
    logging.getLogger("edge_mqtt").setLevel(level)


def writes_json() -> bool:
    """Tell whether this program's log lines are JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def _handler(log_format: str) -> logging.Handler:
    handler: logging.Handler = logging.StreamHandler()
    if log_format == JSON:
        handler.setFormatter(JsonFormatter())
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(
            console=Console(stderr=True), show_path=False, omit_repeated_times=False, log_time_format="%H:%M:%S"
        )
        handler.setFormatter(FieldsFormatter("%(message)s"))
    else:
        handler.setFormatter(FieldsFormatter("%(asctime)s %(levelname)-7s %(message)s"))
    return handler


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    return ((key, value) for key, value in vars(record).items() if key not in _STANDARD)


def _quoted(value: str) -> str:
    plain = value and not any(character.isspace() or character in '"[]=' for character in value)
    return value if plain else json.dumps(value, ensure_ascii=False)


def _on_one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")
