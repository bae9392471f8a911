"""Every message, by who sends it. Frozen, discriminated by ``kind``, unknown fields ignored.

The sender's identity is never a field: it is the topic, which the access table ties to the certificate.
``id`` and ``sent_at`` of the envelope are stamped when a message is encoded; nothing is decided by them.
What must be recognised when it is sent again has an id of its own (``job_id`` and ``fence``, ``request_id``,
``sequence``, a log offset).
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId

#: The protocol version that this program speaks and writes into every envelope.
PROTOCOL_VERSION = 1


class Part(BaseModel):
    """Something that messages are made of."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Message(Part):
    """The envelope: what every message has."""

    kind: str
    v: int = PROTOCOL_VERSION
    #: Unique per sending, for tracing.
    id: str = ""
    #: Unix time in seconds by the sender's clock, for people; no decision uses it.
    sent_at: float = 0.0


class BinaryMessage(Message):
    """A message whose bytes follow the JSON line, compressed when that is smaller."""

    body: bytes = Field(default=b"", exclude=True, repr=False)


# ---------------------------------------------------------------- jobs


class WorkloadType(StrEnum):
    """The workloads that Airflow hands an executor, by the names Airflow gives them."""

    TASK = "ExecuteTask"
    CALLBACK = "ExecuteCallback"
    CONNECTION_TEST = "TestConnection"


class JobSpec(Part):
    """What a job is: routing, order, the names people know it by, and the workload without its token."""

    job_id: JobId
    type: WorkloadType
    queue: str
    #: Airflow's priority weight; a higher one goes first.
    priority: int = 1
    #: Slots it takes on a worker: the task's ``pool_slots``.
    slots: int = Field(default=1, ge=1)
    dag_id: str = ""
    run_id: str = ""
    task_id: str = ""
    map_index: int = -1
    try_number: int = 0
    #: Path of the log below Airflow's base_log_folder.
    log_path: str | None = None
    #: Airflow's workload as JSON, without its token.
    workload: dict[str, Any] = Field(default_factory=dict, repr=False)


class Outcome(StrEnum):
    """How a job ended."""

    SUCCESS = "success"
    FAILED = "failed"
    #: Its worker went away for longer than offline_grace, or came back without it.
    LOST = "lost"
    CANCELLED = "cancelled"


# ---------------------------------------------------------------- executor -> bridge


class Submit(Message):
    """A job to run. Repeated until :class:`JobAccepted`."""

    kind: Literal["submit"] = "submit"
    executor: ExecutorName
    job: JobSpec
    #: The workload's bearer token for the Execution API. It stays in the data centre.
    token: str = Field(repr=False)


class ExecutorHello(Message):
    """An executor (re)connected: send it the final events that it has not acknowledged."""

    kind: Literal["executor_hello"] = "executor_hello"


class EventAck(Message):
    """Airflow has the final event of a job."""

    kind: Literal["event_ack"] = "event_ack"
    job_id: JobId


class CancelJob(Message):
    """Stop a job wherever it is. No event will follow."""

    kind: Literal["cancel_job"] = "cancel_job"
    job_id: JobId


class AdoptRequest(Message):
    """An executor takes over the jobs of a dead one."""

    kind: Literal["adopt_request"] = "adopt_request"
    request_id: str
    job_ids: tuple[JobId, ...]


# ---------------------------------------------------------------- bridge -> executor


class JobAccepted(Message):
    """The job is in the ledger."""

    kind: Literal["job_accepted"] = "job_accepted"
    job_id: JobId


class JobStarted(Message):
    """The job's start is recorded; its user code may run now."""

    kind: Literal["job_started"] = "job_started"
    job_id: JobId
    worker: str


class JobFinished(Message):
    """The job's final event. Repeated until :class:`EventAck`."""

    kind: Literal["job_finished"] = "job_finished"
    job_id: JobId
    outcome: Outcome
    #: One line for people: exit code, signal or why it was lost.
    detail: str = ""
    worker: str = ""


class AdoptReply(Message):
    """The jobs that the bridge knows, by state; one that is missing never arrived or was purged."""

    kind: Literal["adopt_reply"] = "adopt_reply"
    request_id: str
    states: dict[JobId, str]


# ---------------------------------------------------------------- bridge -> worker


class Assign(Message):
    """A job for this worker. Repeated on reconnect until it is acknowledged."""

    kind: Literal["assign"] = "assign"
    fence: Fence
    job: JobSpec


class JobRef(Part):
    """One assignment of one job."""

    job_id: JobId
    fence: Fence


class LogPosition(Part):
    """How many bytes of a job's log the centre has, counted from the job's first byte."""

    job_id: JobId
    offset: int


class Welcome(Message):
    """Answer to a worker's first presence on a connection: what to go on with."""

    kind: Literal["welcome"] = "welcome"
    incarnation: str
    #: Seconds that a running job survives without contact.
    offline_grace_s: float
    #: Seconds between SIGTERM and SIGKILL.
    kill_grace_s: float
    #: Seconds between presence messages while jobs run.
    presence_interval_s: float
    #: Ship the log of these from here on.
    logs: tuple[LogPosition, ...] = ()
    #: No longer yours: stop these without reporting, or forget them.
    drop: tuple[JobRef, ...] = ()
    #: Results that are stored: no need to send them again.
    known_results: tuple[JobRef, ...] = ()


class PresenceAck(Message):
    """The lease of everything in that presence is renewed."""

    kind: Literal["presence_ack"] = "presence_ack"
    incarnation: str
    sequence: int


class ResultAck(Message):
    """The result is in the ledger."""

    kind: Literal["result_ack"] = "result_ack"
    job_id: JobId
    fence: Fence


class LogAck(Message):
    """The centre has the job's log up to ``offset``, on disk."""

    kind: Literal["log_ack"] = "log_ack"
    job_id: JobId
    offset: int


class Cancel(Message):
    """Stop a job: SIGTERM, then SIGKILL after the kill grace. Its result is still wanted."""

    kind: Literal["cancel"] = "cancel"
    job_id: JobId
    fence: Fence
    reason: str


# ---------------------------------------------------------------- worker -> bridge


class WorkerState(StrEnum):
    """What a worker says of itself."""

    ONLINE = "online"
    #: Finishes what it has and takes nothing new.
    DRAINING = "draining"
    OFFLINE = "offline"


class HeldJobState(StrEnum):
    """Where a job is on its worker."""

    #: In the spool; its supervisor has not asked to start.
    ACCEPTED = "accepted"
    #: Its supervisor runs.
    RUNNING = "running"
    #: It ended; the result waits for its acknowledgement.
    FINISHED = "finished"


class HeldJob(Part):
    """A job that a worker holds."""

    job_id: JobId
    fence: Fence
    state: HeldJobState


class Presence(Message):
    """A worker says that it is there and what it holds. Retained; ``offline`` is also its will."""

    kind: Literal["presence"] = "presence"
    #: Differs for every start of the worker's program on its state folder.
    incarnation: str
    #: Counts this incarnation's connections; a will of an earlier one is ignored.
    connection: int
    #: Counts the presences of this connection; confirmed by :class:`PresenceAck`.
    sequence: int = 0
    state: WorkerState
    version: str = ""
    queues: tuple[str, ...] = ()
    concurrency: int = 0
    jobs: tuple[HeldJob, ...] = ()


class AssignmentAccepted(Message):
    """The assignment is in the worker's spool."""

    kind: Literal["assignment_accepted"] = "assignment_accepted"
    job_id: JobId
    fence: Fence


class AssignmentRejected(Message):
    """The worker cannot take the job; it goes back to the queue, or fails when ``permanent``."""

    kind: Literal["assignment_rejected"] = "assignment_rejected"
    job_id: JobId
    fence: Fence
    reason: str
    permanent: bool = False


class Finished(Message):
    """A job ended on the worker. Repeated until :class:`ResultAck`."""

    kind: Literal["finished"] = "finished"
    job_id: JobId
    fence: Fence
    #: The supervisor's exit code; None when it was killed by a signal or is gone.
    exit_code: int | None = None
    signal: int | None = None
    #: One line for people when there is neither.
    error: str = ""
    #: Bytes of log that this job wrote.
    log_size: int = 0
    #: Unix times in seconds by the worker's clock.
    started_at: float | None = None
    ended_at: float | None = None


class LogChunk(BinaryMessage):
    """Bytes of a job's log; ``offset`` counts from the job's first byte. Repeated until :class:`LogAck`."""

    kind: Literal["log_chunk"] = "log_chunk"
    job_id: JobId
    offset: int = Field(ge=0)


class ApiRequest(BinaryMessage):
    """One Execution API call of a supervisor. Repeated on reconnect until it is answered."""

    kind: Literal["api_request"] = "api_request"
    request_id: str
    job_id: JobId
    fence: Fence
    method: str
    #: Path below the Execution API's root, with the query string, still percent-encoded.
    target: str
    headers: dict[str, str] = Field(default_factory=dict)


class StartRequest(Message):
    """May a workload that makes no ``run`` call (callback, connection test) start? Repeated until answered."""

    kind: Literal["start_request"] = "start_request"
    request_id: str
    job_id: JobId
    fence: Fence


class ApiResponse(BinaryMessage):
    """The answer to an :class:`ApiRequest` (or a :class:`StartRequest`, by status alone)."""

    kind: Literal["api_response"] = "api_response"
    request_id: str
    status: int
    headers: dict[str, str] = Field(default_factory=dict)


# ---------------------------------------------------------------- operator <-> bridge


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
    """Read logs from given offsets on; answered at once when there is something new, else after ``wait_s``."""

    kind: Literal["tail_request"] = "tail_request"
    request_id: str
    selector: LogSelector
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
    #: Nothing will be added: the try ended and all of its log is here.
    complete: bool


class StreamBytes(Part):
    """A slice of the reply's body: ``length`` bytes of a stream, which stand at ``offset`` in it."""

    stream_id: str
    offset: int
    length: int


class TailReply(BinaryMessage):
    """What there is to read."""

    kind: Literal["tail_reply"] = "tail_reply"
    request_id: str
    #: Streams that are new to the reader or have changed.
    streams: tuple[LogStream, ...] = ()
    #: Slices of the body, in order.
    slices: tuple[StreamBytes, ...] = ()
    #: The run that ``selector.run_id`` None was resolved to.
    run_id: str | None = None
    #: To be sent back with the next request, so that nothing which begins and ends between two of them is missed.
    cursor: int = 0
    #: Airflow's state of that run; empty when it can't be asked now.
    run_state: str = ""
    #: There will never be more.
    ended: bool = False
    #: Set when the request can't be met: no such Dag, run or task.
    error: str = ""


class Fragment(BinaryMessage):
    """A piece of a packet that is larger than one MQTT packet may be."""

    kind: Literal["fragment"] = "fragment"
    of: str
    index: int = Field(ge=0)
    count: int = Field(ge=2)


class ErrorReply(Message):
    """The receiver could not make sense of a message."""

    kind: Literal["error"] = "error"
    error: str


AnyMessage = Annotated[
    Submit
    | ExecutorHello
    | EventAck
    | CancelJob
    | AdoptRequest
    | JobAccepted
    | JobStarted
    | JobFinished
    | AdoptReply
    | Assign
    | Welcome
    | PresenceAck
    | ResultAck
    | LogAck
    | Cancel
    | Presence
    | AssignmentAccepted
    | AssignmentRejected
    | Finished
    | LogChunk
    | ApiRequest
    | StartRequest
    | ApiResponse
    | TailRequest
    | TailReply
    | Fragment
    | ErrorReply,
    Field(discriminator="kind"),
]

MESSAGE_ADAPTER: TypeAdapter[AnyMessage] = TypeAdapter(AnyMessage)
