"""How far each log has been read: turns the bridge's replies into whole lines. No I/O, no clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edge_mqtt.broker_bridge.protocol.messages import LogSelector, LogStream, TailReply, TailRequest

#: A line longer than this is printed in parts: bounds what we hold in memory.
MAX_LINE_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLine:
    """A line of a stream, without its line feed."""

    stream: LogStream
    data: bytes
    #: False for a last line that has no line feed, and for the parts of a line over ``MAX_LINE_BYTES``.
    terminated: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Taken:
    """What a reply brought."""

    lines: tuple[LogLine, ...]
    #: The next request differs from the one before.
    progress: bool


class LineAssembler:
    """How far every stream has been read, and the incomplete line at the end of each. No I/O, no clock."""

    def __init__(self, selector: LogSelector, *, last_lines: int | None, wait_s: float) -> None:
        self._selector = selector
        self._last_lines = last_lines
        self._wait_s = wait_s
        self._cursor = 0
        #: The request whose reply has been taken as a whole.
        self._taken = ""
        self._streams: dict[str, LogStream] = {}
        self._positions: dict[str, int] = {}
        self._held: dict[str, bytearray] = {}

    @property
    def wait_s(self) -> float:
        """Seconds that the bridge may hold a request."""
        return self._wait_s

    def request(self, request_id: str) -> TailRequest:
        """Return the request for what has not been read yet."""
        if self._taken:
            return TailRequest(
                request_id=request_id, selector=self._selector, continues=self._taken, wait_s=self._wait_s
            )
        return TailRequest(
            request_id=request_id,
            selector=self._selector,
            positions=dict(self._positions),
            last_lines=self._last_lines,
            cursor=self._cursor,
            wait_s=self._wait_s,
        )

    def accept(self, reply: TailReply) -> Taken:
        """Take a reply to the newest request; return the lines that it completes."""
        if reply.forgotten:
            self._taken = ""
            return Taken(lines=(), progress=True)
        before = dict(self._positions)
        if reply.run_id is not None and self._selector.dag_id is not None:
            # A run that begins later must not take the place of the one that is being read.
            self._selector = self._selector.model_copy(update={"run_id": reply.run_id})
        # A stream that turns up from now on began under our eyes: all of it is wanted.
        self._last_lines = None
        self._cursor = reply.cursor
        self._streams.update((stream.stream_id, stream) for stream in reply.streams)
        lines: list[LogLine] = []
        grown = set()
        self._taken = reply.request_id
        start = 0
        for part in reply.slices:
            data = reply.body[start : start + part.length]
            start += part.length
            if self._advance(part.stream_id, part.offset, data, lines):
                grown.add(part.stream_id)
        for stream in reply.streams:
            if stream.complete and stream.stream_id not in grown:
                lines.extend(self._flush(stream.stream_id))
        return Taken(lines=tuple(lines), progress=self._positions != before)

    def rest(self) -> tuple[LogLine, ...]:
        """Return the incomplete lines, when nothing more will be asked for."""
        return tuple(line for stream_id in tuple(self._held) for line in self._flush(stream_id))

    def incomplete(self) -> tuple[LogStream, ...]:
        """Return the streams of which something will never come."""
        return tuple(stream for stream in self._streams.values() if stream.missing)

    def _advance(self, stream_id: str, offset: int, data: bytes, lines: list[LogLine]) -> bool:
        if stream_id not in self._streams:
            self._taken = ""
            return False
        position = self._positions.setdefault(stream_id, offset)
        # Bytes that were read before are skipped; bytes after a gap are not taken, but asked for again.
        if not offset <= position <= offset + len(data):
            self._taken = ""
            return False
        self._positions[stream_id] = offset + len(data)
        lines.extend(self._lines(stream_id, data[position - offset :]))
        return offset + len(data) > position

    def _lines(self, stream_id: str, data: bytes) -> Iterator[LogLine]:
        stream = self._streams[stream_id]
        *lines, rest = data.split(b"\n")
        held = self._held.pop(stream_id, bytearray())
        for line in lines:
            yield LogLine(stream=stream, data=bytes(held) + line)
            held = bytearray()
        held += rest
        if len(held) > MAX_LINE_BYTES:
            yield LogLine(stream=stream, data=bytes(held), terminated=False)
        elif held:
            self._held[stream_id] = held

    def _flush(self, stream_id: str) -> Iterator[LogLine]:
        held = self._held.pop(stream_id, None)
        if held:
            yield LogLine(stream=self._streams[stream_id], data=bytes(held), terminated=False)
