"""What happens to the dispatcher, one class a kind. Names of senders come from the topic, never from a message."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Finished, JobSpec, Presence


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """An executor hands over a job; repeated until it is accepted."""

    executor: ExecutorName
    job: JobSpec
    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class SubmissionFailed:
    """An executor handed over a job that can't be taken in: not by its own fields, or not by the ledger."""

    executor: ExecutorName
    job_id: JobId
    #: One line for people.
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SendingFailed:
    """A job can be sent to no worker, whichever it is."""

    job_id: JobId
    #: One line for people.
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSeen:
    """A worker's presence, or its will."""

    worker: WorkerName
    presence: Presence


@dataclass(frozen=True, kw_only=True, slots=True)
class JobAccepted:
    """A worker has the assignment in its spool."""

    worker: WorkerName
    job_id: JobId
    fence: Fence


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRejected:
    """A worker cannot take the job."""

    worker: WorkerName
    job_id: JobId
    fence: Fence
    reason: str
    #: No worker could ever take it.
    permanent: bool = False
    #: The worker could take no other job now either.
    takes_none: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class StartAsked:
    """A process on a worker asks for the permission to run a job's user code; repeated until it is answered."""

    worker: WorkerName
    job_id: JobId
    fence: Fence
    #: The process ("host:pid"): only the same one may be granted again.
    starter: str
    request_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultReported:
    """A job ended on its worker; repeated until it is acknowledged."""

    worker: WorkerName
    result: Finished


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRefreshed:
    """The Execution API gave a job a new token."""

    job_id: JobId
    token: str = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class CallForwarded:
    """A call of a job that may not simply be made twice is about to be made."""

    job_id: JobId
    #: What the relay has to know when the call comes again, perhaps to another bridge.
    call: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LogLeft:
    """A job's log behind which another one goes on; ``kept`` bytes of it are in the file."""

    job_id: JobId
    base: int
    kept: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LogOpened:
    """A job's log goes on at the end of its file: its first byte is, or would be, at byte ``base``.

    None: it will, but for now others' logs were left only.
    """

    job_id: JobId
    base: int | None
    #: The logs that had the file's end.
    left: tuple[LogLeft, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class CancelAsked:
    """An executor revokes a job, its own or another's, and wants to hear no more of it; repeated until answered."""

    executor: ExecutorName
    job_id: JobId
    #: Only while it has not started; then its executor, whichever that is, is told its end.
    unless_started: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskEnded:
    """Airflow does not want this task to run any more: its heartbeat was answered with 404, 409 or 410."""

    job_id: JobId
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StartRefused:
    """Airflow refused a task's ``run`` call: its process ends by itself, without having run user code."""

    job_id: JobId
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskTold:
    """A task tells Airflow its state, with which its job ends; an empty one: Airflow has refused what it told."""

    job_id: JobId
    state: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorConnected:
    """An executor (re)connected and has missed what was sent to it meanwhile."""

    executor: ExecutorName


@dataclass(frozen=True, kw_only=True, slots=True)
class EventAcked:
    """Airflow has the final event of a job."""

    executor: ExecutorName
    job_id: JobId


@dataclass(frozen=True, kw_only=True, slots=True)
class EventsGivenUp:
    """The final events of these jobs were not acknowledged for so long that they will never be."""

    job_ids: tuple[JobId, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class AdoptAsked:
    """An executor takes over, or asks about, jobs that Airflow believes to be unfinished."""

    executor: ExecutorName
    request_id: str
    job_ids: tuple[JobId, ...]
    #: False: jobs of other executors stay theirs.
    take_over: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """Time has passed: ``next_deadline()`` is due."""


Event = (
    Submitted
    | SubmissionFailed
    | SendingFailed
    | WorkerSeen
    | JobAccepted
    | JobRejected
    | StartAsked
    | ResultReported
    | TokenRefreshed
    | CallForwarded
    | LogOpened
    | CancelAsked
    | TaskEnded
    | StartRefused
    | TaskTold
    | ExecutorConnected
    | EventAcked
    | EventsGivenUp
    | AdoptAsked
    | Tick
)
