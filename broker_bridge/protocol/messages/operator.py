"""Between an operator and the bridge."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from edge_mqtt.broker_bridge.protocol.limits import MAX_ITEMS
from edge_mqtt.broker_bridge.protocol.messages import bounds
from edge_mqtt.broker_bridge.protocol.messages.base import BinaryMessage, Message, Part


class LogSelector(Part):
    """Which logs to read: every field that is set must match."""

    dag_id: bounds.Name | None = None
    task_id: bounds.Name | None = None
    #: None with a dag_id: the newest run.
    run_id: bounds.Name | None = None
    map_index: bounds.SmallInteger | None = None
    try_number: bounds.SmallInteger | None = None
    worker: bounds.Name | None = None
    queue: bounds.Name | None = None


class TailRequest(Message):
    """Read logs from given offsets on; answered at once when there is something new, else after ``wait_s``.

    One that ``continues`` brings no positions: the bridge remembers what it has answered.
    """

    kind: Literal["tail_request"] = "tail_request"
    request_id: bounds.RequestId
    #: Which logs.
    selector: LogSelector
    #: The request before, when its reply has been taken as a whole; empty: everything is in this one.
    continues: bounds.Name = ""
    #: Stream id -> offset of the next byte wanted. A stream that is missing is new to the reader.
    positions: Annotated[dict[bounds.Path, bounds.Count], Field(max_length=MAX_ITEMS)] = Field(default_factory=dict)
    #: Begin a stream that is new to the reader with its last lines; None: with its first byte.
    last_lines: bounds.Count | None = None
    #: The ``cursor`` of the reply before, 0 at first.
    cursor: bounds.Count = 0
    #: Seconds to wait for something new.
    wait_s: bounds.Seconds = 0.0


class LogStream(Part):
    """The log of one try of one task instance."""

    #: Its path below base_log_folder.
    stream_id: bounds.Path
    dag_id: bounds.Name
    run_id: bounds.Name
    task_id: bounds.Name
    map_index: bounds.SmallInteger
    try_number: bounds.SmallInteger
    worker: bounds.Name
    queue: bounds.Name
    #: Nothing will be added: the try ended, and its log is here or given up.
    complete: bool
    #: What of a complete log is not here, for people; empty when nothing is known to be missing.
    missing: bounds.Prose = ""


class StreamBytes(Part):
    """A slice of the reply's body: ``length`` bytes of a stream, which stand at ``offset`` in it."""

    stream_id: bounds.Path
    #: Where the slice begins in the stream.
    offset: bounds.Count
    #: Bytes of the slice.
    length: bounds.Count


class TailReply(BinaryMessage):
    """What there is to read."""

    kind: Literal["tail_reply"] = "tail_reply"
    request_id: bounds.RequestId
    #: Streams that are new to the reader or have changed.
    streams: bounds.Items[LogStream] = ()
    #: Slices of the body, in order.
    slices: bounds.Items[StreamBytes] = ()
    #: The newest run, when the selector named none.
    run_id: bounds.Name | None = None
    #: To be sent back with the next request, so that nothing which begins and ends between two of them is missed.
    cursor: bounds.Count = 0
    #: Airflow's state of that run; empty when it can't be asked now.
    run_state: bounds.Name = ""
    #: The bridge does not remember the request that this one continued: ask again with everything.
    forgotten: bool = False
    #: There will never be more.
    ended: bool = False
    #: Set when the request can't be met: no such Dag, run or task.
    error: bounds.Prose = ""
    #: What the reader should know about the answer, for people.
    note: bounds.Prose = ""
