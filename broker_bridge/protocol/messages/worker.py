"""Between a worker and the bridge."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from edge_mqtt.broker_bridge.protocol.limits import MAX_LOG_CHUNK_BYTES, MAX_SECONDS
from edge_mqtt.broker_bridge.protocol.messages import bounds
from edge_mqtt.broker_bridge.protocol.messages.base import BinaryMessage, Message, Part
from edge_mqtt.broker_bridge.protocol.messages.jobs import JobSpec

# ---------------------------------------------------------------- bridge -> worker


class Assign(Message):
    """A job for this worker. Repeated on reconnect until it is acknowledged."""

    kind: Literal["assign"] = "assign"
    fence: bounds.Fence
    #: What to run.
    job: JobSpec
    #: Seconds from a confirmed contact until the bridge gives the job up. It stays with the job: neither side may
    #: count another lease than the other when the settings change.
    lease_s: float = Field(gt=0, le=MAX_SECONDS, allow_inf_nan=False)
    #: Whether the job's log is shipped; otherwise it stays on the worker.
    ships_log: bool = True


class JobRef(Part):
    """One assignment of one job."""

    job_id: bounds.JobId
    fence: bounds.Fence


class LogPosition(Part):
    """How many bytes of a job's log the bridge has, counted from the job's first byte."""

    job_id: bounds.JobId
    #: The first byte that is wanted.
    offset: bounds.Count


class Welcome(Message):
    """Answer to a worker's first presence on a connection: what to go on with."""

    kind: Literal["welcome"] = "welcome"
    incarnation: bounds.RequiredName
    connection: bounds.Count
    #: Seconds between SIGTERM and SIGKILL.
    kill_grace_s: bounds.Seconds
    #: Seconds between presence messages while jobs run.
    presence_interval_s: bounds.Seconds
    #: Ship the log of these from here on.
    logs: bounds.Items[LogPosition] = ()
    #: No longer yours: stop these without reporting, or forget them.
    drop: bounds.Items[JobRef] = ()
    #: Results that are stored: no need to send them again.
    known_results: bounds.Items[JobRef] = ()
    #: Unix time in seconds by the bridge's clock when this was sent.
    sent_at: bounds.UnixTime | None = None


class PresenceAck(Message):
    """The lease of everything in that presence is renewed."""

    kind: Literal["presence_ack"] = "presence_ack"
    incarnation: bounds.RequiredName
    connection: bounds.Count
    sequence: bounds.Count
    #: Unix time in seconds by the bridge's clock when this was sent.
    sent_at: bounds.UnixTime | None = None


class ResultAck(Message):
    """The result is in the ledger."""

    kind: Literal["result_ack"] = "result_ack"
    job_id: bounds.JobId
    fence: bounds.Fence


class LogAck(Message):
    """The bridge has this run's log up to ``offset``, on disk, or will never want what it lacks of it."""

    kind: Literal["log_ack"] = "log_ack"
    job_id: bounds.JobId
    fence: bounds.Fence
    #: Where the next chunk begins.
    offset: bounds.Count
    #: Seconds from the arrival of the last chunk to this message: what the link took is the rest (as QUIC's ACK
    #: Delay, RFC 9000, section 13.2.5).
    held_s: bounds.Seconds = 0.0
    #: False when something of it is not on disk and will never be wanted: the worker has the only copy.
    stored: bool = True


class Cancel(Message):
    """Stop a job: SIGTERM, then SIGKILL after the kill grace. Its result is still wanted."""

    kind: Literal["cancel"] = "cancel"
    job_id: bounds.JobId
    fence: bounds.Fence
    #: One line for people.
    reason: bounds.Prose


# ---------------------------------------------------------------- worker -> bridge


class WorkerState(StrEnum):
    """What a worker says of itself."""

    ONLINE = "online"
    #: Finishes what it has and takes nothing new.
    DRAINING = "draining"
    OFFLINE = "offline"


class ReportedJobState(StrEnum):
    """Where a job is on its worker."""

    #: In the spool; its supervisor has not asked to start.
    ACCEPTED = "accepted"
    #: Its supervisor runs.
    RUNNING = "running"
    #: It ended; the result waits for its acknowledgement.
    FINISHED = "finished"


class HeldJob(Part):
    """A job that a worker holds."""

    job_id: bounds.JobId
    fence: bounds.Fence
    #: Where it is.
    state: ReportedJobState


class Presence(Message):
    """A worker says that it is there and what it holds. Retained; ``offline`` is also its will."""

    kind: Literal["presence"] = "presence"
    #: Differs for every start of the worker's program on its state folder.
    incarnation: bounds.RequiredName
    #: The state folder, whoever works on it: another one under the same name is another machine.
    home: bounds.Name = ""
    #: Counts this incarnation's connections; a will of an earlier one is ignored.
    connection: bounds.Count
    #: Counts the presences of this connection; confirmed by :class:`PresenceAck`.
    sequence: bounds.Count = 0
    #: What it does.
    state: WorkerState
    #: Of its program, for people.
    version: bounds.Name = ""
    #: The queues that it serves.
    queues: bounds.Items[bounds.RequiredName] = ()
    #: Slots that it has in all.
    concurrency: bounds.SmallCount = 0
    #: Every job that it holds.
    jobs: bounds.Items[HeldJob] = ()
    #: Seconds that its clock is behind the bridge's, negative for ahead; 0 when that is less than can be told.
    clock_offset_s: bounds.Offset = 0.0

    @property
    def begins_or_ends_connection(self) -> bool:
        """Whether nothing that the worker has sent before is still on its way."""
        return self.sequence == 0 or self.state is WorkerState.OFFLINE


class AssignmentAccepted(Message):
    """The assignment is in the worker's spool."""

    kind: Literal["assignment_accepted"] = "assignment_accepted"
    job_id: bounds.JobId
    fence: bounds.Fence


class AssignmentRejected(Message):
    """The worker cannot take the job; it goes back to its queue, or fails when ``permanent`` or refused too often."""

    kind: Literal["assignment_rejected"] = "assignment_rejected"
    job_id: bounds.JobId
    fence: bounds.Fence
    #: One line for people.
    reason: bounds.Prose
    #: No other worker could take it either.
    permanent: bool = False
    #: This worker could take no other job now either.
    takes_none: bool = False


class Finished(Message):
    """A job ended on the worker. Repeated until :class:`ResultAck`."""

    kind: Literal["finished"] = "finished"
    job_id: bounds.JobId
    fence: bounds.Fence
    #: The supervisor's exit code; None when it was killed by a signal or is gone.
    exit_code: bounds.SmallInteger | None = None
    #: The signal that killed it.
    signal: bounds.SmallInteger | None = None
    #: One line for people when there is neither.
    error: bounds.Prose = ""
    #: Bytes of log that this job wrote.
    log_size: bounds.LogBytes = 0
    #: Unix time in seconds by the worker's clock; None when it did not start.
    started_at: bounds.UnixTime | None = None
    #: Unix time in seconds by the worker's clock.
    ended_at: bounds.UnixTime | None = None


class LogChunk(BinaryMessage):
    """Bytes of a job's log; ``offset`` counts from the job's first byte. Repeated until :class:`LogAck`."""

    kind: Literal["log_chunk"] = "log_chunk"
    job_id: bounds.JobId
    fence: bounds.Fence
    #: Where the body begins in the job's log.
    offset: bounds.LogBytes
    body: bytes = Field(default=b"", max_length=MAX_LOG_CHUNK_BYTES, exclude=True, repr=False)


class ApiRequest(BinaryMessage):
    """One Execution API call of a supervisor. Repeated on reconnect until it is answered."""

    kind: Literal["api_request"] = "api_request"
    request_id: bounds.RequestId
    job_id: bounds.JobId
    fence: bounds.Fence
    #: Of HTTP.
    method: bounds.RequiredName
    #: Path below the Execution API's root, with the query string, still percent-encoded.
    target: bounds.HttpText
    #: Of HTTP; never the token, which the bridge adds.
    headers: bounds.Headers = Field(default_factory=dict)
    #: It has been sent before, perhaps to a bridge that did not live to answer.
    repeated: bool = False
    #: Seconds that the worker's clock was behind the bridge's when the call was made, as in its presence: the bridge
    #: corrects the moments in the call by it.
    clock_offset_s: bounds.Offset = 0.0


class StartRequest(Message):
    """May a workload that makes no ``run`` call (callback, connection test) start? Repeated until answered."""

    kind: Literal["start_request"] = "start_request"
    request_id: bounds.RequestId
    job_id: bounds.JobId
    fence: bounds.Fence


class ApiResponse(BinaryMessage):
    """The answer to an :class:`ApiRequest` (or a :class:`StartRequest`, by status alone)."""

    kind: Literal["api_response"] = "api_response"
    request_id: bounds.RequestId
    #: Of HTTP.
    status: bounds.HttpStatus
    #: Of HTTP.
    headers: bounds.Headers = Field(default_factory=dict)
