"""Log lines as people or programs want them: pretty, json or raw.

Airflow's task logs are JSON lines (airflow/sdk/log.py): ``timestamp``, ``level``, ``event``, ``logger``, then
whatever was logged with it. Exceptions are in ``error_detail``, in the form of structlog's
``ExceptionDictTransformer``.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from typing import Any, Final, Protocol

from pydantic import BaseModel, TypeAdapter, ValidationError

from edge_mqtt.broker_bridge.edge_logs.line_assembler import LogLine
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, LogStream

#: Puts a text into a style (in rich's notation), or leaves it as it is.
Paint = Callable[[str, str], str]

#: Levels as they are shown, all of one width, and their styles.
_LEVELS: Final = {
    "debug": ("DEBUG", "blue"),
    "info": ("INFO ", "green"),
    "warning": ("WARN ", "yellow"),
    "error": ("ERROR", "bold red"),
    "critical": ("CRIT ", "bold white on red"),
}
#: Styles of the prefixes that tell streams apart: every plain colour but those that levels are known by.
_PREFIX_STYLES: Final = (
    "cyan",
    "magenta",
    "blue",
    "bright_cyan",
    "bright_magenta",
    "bright_blue",
    "bright_green",
    "bright_yellow",
)
#: Prefixes are padded to the longest so far, but not beyond this many characters.
_PREFIX_WIDTH: Final = 40
#: Fields that have a place of their own in a line, or that only say where in the code it was logged.
_IN_LINE: Final = frozenset(
    {"timestamp", "level", "event", "logger", "error_detail", "exception", "stack", "filename", "lineno", "loc"}
)
#: Fields that Airflow binds to every line of a task; the header and the prefix say them once.
_IN_HEADER: Final = frozenset({"ti_id", "dag_id", "run_id", "task_id", "try_number", "map_index"})
_PLACED: Final = _IN_LINE | _IN_HEADER
#: Characters of a field's value that are shown; Airflow binds whole objects' reprs. ``json`` and ``raw`` have it all.
_VALUE_LENGTH: Final = 120
_GROUP: Final = "::group::"
_END_GROUP: Final = "::endgroup::"

#: Characters that make a terminal do something else than show text.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
#: Terminal sequences: colours and the like (CSI), titles and links (OSC and its kin), everything else (ECMA-48).
_ESCAPE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-Z\\^-~]?", re.DOTALL
)
_COLOUR = re.compile(r"\x1b\[[0-9;:]*m")
_COLOUR_OFF: Final = "\x1b[0m"
_BARE = re.compile(r"[^\s\"'=]+")


class OutputFormat(StrEnum):
    """What lines look like."""

    PRETTY = "pretty"
    JSON = "json"
    RAW = "raw"


class Renderer(Protocol):
    """Turns lines into what is printed."""

    def render(self, line: LogLine) -> bytes:
        """Return the bytes to print for ``line``."""


class RawRenderer:
    """Bytes as they are; whole lines of several streams take turns."""

    def __init__(self) -> None:
        self._unterminated: str | None = None

    def render(self, line: LogLine) -> bytes:
        """Return the line; on a line of its own when another stream's is unfinished."""
        stream_id = line.stream.stream_id
        begin = b"\n" if self._unterminated not in (None, stream_id) else b""
        self._unterminated = None if line.terminated else stream_id
        return begin + line.data + (b"\n" if line.terminated else b"")


class JsonRenderer:
    """One JSON object a line, with where it comes from added."""

    def render(self, line: LogLine) -> bytes:
        """Return the line's object with the stream's fields; a line that is none becomes its ``event``."""
        stream = line.stream
        fields = _object(line.data)
        if fields is None:
            fields = {"event": _text(line.data)}
        fields.update(
            dag_id=stream.dag_id,
            run_id=stream.run_id,
            task_id=stream.task_id,
            map_index=stream.map_index,
            try_number=stream.try_number,
            worker=stream.worker,
            queue=stream.queue,
        )
        text = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
        # A lone surrogate, which JSON may hold in escaped form, has no UTF-8 form.
        return text.encode("utf-8", errors="backslashreplace") + b"\n"


class PrettyRenderer:
    """Time, level, logger, message and the rest, for people.

    :param selector: decides whether lines need to say which task they are of.
    :param colour: the output shows colours.
    :param timezone: the zone of the times shown; None is the machine's.
    """

    def __init__(
        self,
        selector: LogSelector,
        *,
        colour: bool,
        encoding: str = "utf-8",
        timezone: tzinfo | None = None,
    ) -> None:
        self._colour = colour
        self._encoding = encoding
        self._timezone = timezone
        self._paint = painter(colour=colour)
        self._with_dag = selector.dag_id is None
        self._prefixed = selector.task_id is None
        #: The worker that each stream's header names.
        self._headed: dict[str, str] = {}
        self._width = 0

    def render(self, line: LogLine) -> bytes:
        """Return the line, below a header when its stream is new or goes on elsewhere."""
        stream = line.stream
        fields = _object(line.data)
        if fields is not None and "event" not in fields:
            fields = None
        lines: list[str] = []
        if self._headed.get(stream.stream_id) != stream.worker:
            self._headed[stream.stream_id] = stream.worker
            lines.append(self._header(stream, fields))
        self._prefixed = self._prefixed or len(self._headed) > 1
        prefix = self._prefix(stream) if self._prefixed else ""
        body = self._plain(line.data) if fields is None else self._structured(fields)
        lines.extend(prefix + line for line in body)
        return "".join(line + "\n" for line in lines).encode(self._encoding, errors="replace")

    # ------------------------------------------------------------ where a line is from

    def _header(self, stream: LogStream, fields: dict[str, Any] | None) -> str:
        when = _time_of(fields.get("timestamp"), self._timezone) if fields is not None else None
        parts = [
            f"{stream.dag_id} · {stream.run_id}",
            f"{_task(stream)} · try {stream.try_number}",
            f"worker {stream.worker or '?'} · queue {stream.queue}",
        ]
        if when is not None:
            parts.append(f"{when:%Y-%m-%d}")
        return self._paint("dim", "── " + _harmless(" · ".join(parts)))

    def _prefix(self, stream: LogStream) -> str:
        task = _task(stream)
        if self._with_dag:
            task = f"{stream.dag_id}/{task}"
        text = _harmless(f"{task} #{stream.try_number}")
        self._width = max(self._width, min(len(text), _PREFIX_WIDTH))
        # The same task has the same colour at every start of the program.
        style = _PREFIX_STYLES[zlib.crc32(task.encode()) % len(_PREFIX_STYLES)]
        return self._paint(style, text.ljust(self._width) + " |") + " "

    # ------------------------------------------------------------ what it says

    def _plain(self, data: bytes) -> Iterable[str]:
        return (self._shown(line) for line in _split(_text(data)))

    def _structured(self, fields: dict[str, Any]) -> Iterator[str]:
        event = fields["event"] if isinstance(fields["event"], str) else _json(fields["event"])
        if event.startswith(_END_GROUP):
            return
        if event.startswith(_GROUP):
            event = "▸ " + event.removeprefix(_GROUP)
        level = str(fields.get("level", "info")).lower()
        label, style = _LEVELS.get(level, (_harmless(level.upper()).ljust(5), "bold"))
        head = [self._paint("dim", self._time(fields.get("timestamp"))), self._paint(style, label)]
        if logger := fields.get("logger"):
            head.append(self._paint("cyan", _harmless(str(logger))) + " ")
        message = [self._shown(line) for line in _split(event)]
        if level in ("error", "critical"):
            message[0] = self._paint("bold", message[0])
        extra = self._extra(fields)
        yield " ".join([*head, message[0]]) + (extra if len(message) == 1 else "")
        for line in message[1:-1]:
            yield "    " + line
        if len(message) > 1:
            yield "    " + message[-1] + extra
        for line in _traceback(fields):
            yield "    " + self._paint("red", self._shown(line))

    def _time(self, timestamp: object) -> str:
        when = _time_of(timestamp, self._timezone)
        if when is None:
            return _harmless(str(timestamp or "")).ljust(12)
        return when.time().isoformat("milliseconds")

    def _extra(self, fields: dict[str, Any]) -> str:
        return "".join(
            " " + self._paint("dim", _harmless(key) + "=") + _harmless(_value(value))
            for key, value in fields.items()
            if key not in _PLACED
        )

    def _shown(self, text: str) -> str:
        """Return ``text`` with nothing in it that a terminal obeys, but for colours where there are colours."""
        if _CONTROL.search(text) is None:
            return text
        if not self._colour or "\x1b" not in text:
            return _harmless(text)
        shown = "".join(
            _harmless(part) + colour
            for part, colour in zip(_COLOUR.split(text), [*_COLOUR.findall(text), _COLOUR_OFF], strict=True)
        )
        return shown if _COLOUR.search(text) else shown.removesuffix(_COLOUR_OFF)


def painter(*, colour: bool) -> Paint:
    """Return what puts texts into styles; one that changes nothing unless ``colour``."""
    if not colour:
        return lambda _style, text: text
    from rich.color import ColorSystem
    from rich.style import Style

    # The 16 colours, because those follow the user's own theme, light or dark.
    return lambda style, text: Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


# ------------------------------------------------------------ exceptions


class _Frame(BaseModel):
    filename: str
    lineno: int
    name: str


class _SyntaxError(BaseModel):
    filename: str
    lineno: int
    line: str


class _Stack(BaseModel):
    """structlog.tracebacks.Stack; the newest exception comes first."""

    exc_type: str
    exc_value: str
    exc_notes: list[str] = []
    syntax_error: _SyntaxError | None = None
    is_cause: bool = False
    frames: list[_Frame] = []
    exceptions: list[_Trace | list[_Stack]] = []


class _Trace(BaseModel):
    stacks: list[_Stack]


_STACKS = TypeAdapter(list[_Stack])


def _traceback(fields: dict[str, Any]) -> Iterator[str]:
    """Return the exception's lines as Python prints them, oldest cause first."""
    for name in ("error_detail", "exception", "stack"):
        value = fields.get(name)
        if isinstance(value, str):
            yield from _split(value.rstrip("\n"))
        elif value:
            try:
                yield from _stacks(_STACKS.validate_python(value))
            except ValidationError:
                yield f"{name}={_json(value)}"


def _stacks(stacks: Sequence[_Stack]) -> Iterator[str]:
    for position, stack in enumerate(reversed(stacks), start=1):
        yield from _stack(stack)
        if position < len(stacks):
            yield ""
            yield (
                "The above exception was the direct cause of the following exception:"
                if stack.is_cause
                else "During handling of the above exception, another exception occurred:"
            )
            yield ""


def _stack(stack: _Stack) -> Iterator[str]:
    if stack.frames:
        yield "Traceback (most recent call last):"
    for frame in stack.frames:
        yield f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}'
    if stack.syntax_error is not None:
        yield f'  File "{stack.syntax_error.filename}", line {stack.syntax_error.lineno}'
        yield f"    {stack.syntax_error.line.strip()}"
    yield from _split(f"{stack.exc_type}: {stack.exc_value}" if stack.exc_value else stack.exc_type)
    for note in stack.exc_notes:
        yield from _split(note)
    for number, trace in enumerate(stack.exceptions, start=1):
        yield f"  +---------------- {number} ----------------"
        for line in _stacks(trace if isinstance(trace, list) else trace.stacks):
            yield "  | " + line


# ------------------------------------------------------------ texts


def _task(stream: LogStream) -> str:
    return stream.task_id if stream.map_index < 0 else f"{stream.task_id}[{stream.map_index}]"


def _object(data: bytes) -> dict[str, Any] | None:
    if not data.startswith(b"{"):
        return None
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _text(data: bytes) -> str:
    return data.decode("utf-8", errors="replace")


def _split(text: str) -> list[str]:
    # A lone carriage return is how progress bars overwrite themselves; here every state is a line.
    return text.replace("\r\n", "\n").rstrip("\r").replace("\r", "\n").split("\n")


def _harmless(text: str) -> str:
    if _CONTROL.search(text) is None:
        return text
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", _ESCAPE.sub("", text))


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _value(value: object) -> str:
    text = value if isinstance(value, str) and _BARE.fullmatch(value) else _json(value)
    return text if len(text) <= _VALUE_LENGTH else f"{text[:_VALUE_LENGTH]}… ({len(text)} characters)"


def _time_of(timestamp: object, timezone: tzinfo | None) -> datetime | None:
    if not isinstance(timestamp, str):
        return None
    try:
        when = datetime.fromisoformat(timestamp)
        return (when if when.tzinfo is not None else when.replace(tzinfo=UTC)).astimezone(timezone)
    except (ValueError, OverflowError):
        return None
