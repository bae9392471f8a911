"""Between an operator and the bridge."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from edge_mqtt.broker_bridge.protocol.messages.base import BinaryMessage, Message, Part


class LogSelector(Part):
    """Which logs to read: every field that is set must match."""

    dag_id: str | None = None
    task_id: str | None = None
    #: None with a dag_id: the newest run.
    run_id: str | None = None
    map_index: int | None = None
    try_number: int | None = None
    worker: str | None = None
    queue: str | None = None


class TailRequest(Message):
    """Read logs from given offsets on; answered at once when there is something new, else after ``wait_s``.

    One that ``continues`` brings no positions: the bridge remembers what it has answered.
    """

    kind: Literal["tail_request"] = "tail_request"
    request_id: str
    #: Which logs.
    selector: LogSelector
    #: The request before, when its reply has been taken as a whole; empty: everything is in this one.
    continues: str = ""
    #: Stream id -> offset of the next byte wanted. A stream that is missing is new to the reader.
    positions: dict[str, int] = Field(default_factory=dict)
    #: Begin a stream that is new to the reader with its last lines; None: with its first byte.
    last_lines: int | None = Field(default=None, ge=0)
    #: The ``cursor`` of the reply before, 0 at first.
    cursor: int = 0
    #: Seconds to wait for something new.
    wait_s: float = Field(default=0.0, ge=0.0)


class LogStream(Part):
    """The log of one try of one task instance."""

    #: Its path below base_log_folder.
    stream_id: str
    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    worker: str
    queue: str
    #: Nothing will be added: the try ended, and its log is here or given up.
    complete: bool
    #: What of a complete log is not here, for people; empty when nothing is known to be missing.
    missing: str = ""


class StreamBytes(Part):
    """A slice of the reply's body: ``length`` bytes of a stream, which stand at ``offset`` in it."""

    stream_id: str
    #: Where the slice begins in the stream.
    offset: int
    #: Bytes of the slice.
    length: int


class TailReply(BinaryMessage):
    """What there is to read."""

    kind: Literal["tail_reply"] = "tail_reply"
    request_id: str
    #: Streams that are new to the reader or have changed.
    streams: tuple[LogStream, ...] = ()
    #: Slices of the body, in order.
    slices: tuple[StreamBytes, ...] = ()
    #: The newest run, when the selector named none.
    run_id: str | None = None
    #: To be sent back with the next request, so that nothing which begins and ends between two of them is missed.
    cursor: int = 0
    #: Airflow's state of that run; empty when it can't be asked now.
    run_state: str = ""
    #: The bridge does not remember the request that this one continued: ask again with everything.
    forgotten: bool = False
    #: There will never be more.
    ended: bool = False
    #: Set when the request can't be met: no such Dag, run or task.
    error: str = ""
    #: What the reader should know about the answer, for people.
    note: str = ""
