"""What the dispatcher decides about: jobs, workers, and the one table of a job's moves."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Outcome, WorkerState, WorkloadType

#: The fence of a job's first assignment. Each return to the queue adds one.
FIRST_FENCE: Final = Fence(1)

#: A task instance: Dag, run, task, map index.
TaskKey = tuple[str, str, str, int]


class CentralJobState(StrEnum):
    """Where a job is in its life."""

    #: Waits for a worker.
    QUEUED = "queued"
    #: Handed to a worker; no user code has been permitted.
    ASSIGNED = "assigned"
    #: One process has the permission to run user code.
    RUNNING = "running"
    FINISHED = "finished"


#: The only moves there are. A running job never goes back: it would run twice.
TRANSITIONS: Final[dict[CentralJobState, frozenset[CentralJobState]]] = {
    CentralJobState.QUEUED: frozenset({CentralJobState.ASSIGNED, CentralJobState.FINISHED}),
    CentralJobState.ASSIGNED: frozenset({CentralJobState.QUEUED, CentralJobState.RUNNING, CentralJobState.FINISHED}),
    CentralJobState.RUNNING: frozenset({CentralJobState.FINISHED}),
    CentralJobState.FINISHED: frozenset(),
}


class IllegalMove(RuntimeError):
    """The dispatcher tried a move that is not in the table: a bug of ours, never an input's fault."""


def check_move(job_id: JobId, before: CentralJobState, after: CentralJobState) -> None:
    """Return when a job may go from ``before`` to ``after`` (staying is no move).

    :raises IllegalMove: the table does not have it.
    """
    if after is not before and after not in TRANSITIONS[before]:
        raise IllegalMove(f"job {job_id} cannot go from {before} to {after}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One queueing of one workload, and all that the bridge knows of it."""

    spec: JobSpec
    #: Who is told the outcome.
    executor: ExecutorName
    #: Seconds from its worker's last contact until the running job is given up; the worker counts the same.
    lease_s: float
    #: Its log is shipped to the data centre; otherwise it stays on the worker.
    ships_log: bool = True
    #: The newest Execution API token; None once the job is finished.
    token: str | None = field(default=None, repr=False)
    #: Its latest call that may not simply be made twice, in the relay's words.
    forwarded: str | None = None
    state: CentralJobState = CentralJobState.QUEUED
    fence: Fence = FIRST_FENCE
    #: Who holds the job, or held it last when it is finished.
    worker: WorkerName | None = None
    #: That worker's state folder: another machine may have its name by now.
    home: str = ""
    #: The worker has the assignment in its spool.
    accepted: bool = False
    #: The process that has the permission to run user code, as it named itself ("host:pid").
    starter: str | None = None
    #: Order of arrival. Kept when the job returns to the queue.
    sequence: int = 0
    outcome: Outcome | None = None
    #: One line for people about the outcome.
    detail: str = ""
    #: The state that the task told Airflow last, or was about to; empty while it has told none.
    told: str = ""
    #: The final event is not waited for: it was acknowledged, or the executor revoked the job.
    event_acked: bool = False
    #: Why the job is to be stopped; None while it is wanted.
    cancel_reason: str | None = None
    #: Byte offset of this job's log in its file; None before its first byte.
    log_base: int | None = None
    #: Bytes of it that were in its file when it last went on there, or when another log went on behind it.
    log_kept: int = 0
    #: Another job's log has gone on behind it.
    log_left: bool = False
    #: Bytes of log that this job wrote; known when it is finished.
    log_size: int | None = None

    @property
    def id(self) -> JobId:
        """The job's id."""
        return self.spec.job_id

    @property
    def holder(self) -> WorkerName | None:
        """The worker whose slots the job takes now."""
        return self.worker if self.state in (CentralJobState.ASSIGNED, CentralJobState.RUNNING) else None

    @property
    def lacks_notice(self) -> bool:
        """Whether the central file is to have a line about its log, and does not have it yet.

        Of a log that stays on its worker, where it is; of a job that failed before it began, why.
        """
        if self.spec.log_path is None or self.log_base is not None:
            return False
        return self.has_failed_unstarted if self.starter is None else not self.ships_log

    @property
    def has_failed_unstarted(self) -> bool:
        """Whether it failed without having begun, so that no line of its own says why."""
        return self.outcome is Outcome.FAILED and self.starter is None and not self.log_size

    @property
    def task(self) -> TaskKey | None:
        """The task instance whose job this is; None for another workload."""
        spec = self.spec
        if spec.type is not WorkloadType.TASK or not spec.task_id:
            return None
        return spec.dag_id, spec.run_id, spec.task_id, spec.map_index

    @property
    def queueing(self) -> tuple[int, int]:
        """Sort key among the jobs of one task instance: the later one is what Airflow wants now."""
        return self.spec.try_number, self.sequence

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key in its queue: callbacks first, then higher priority, then earlier arrival."""
        rank = 0 if self.spec.type is WorkloadType.CALLBACK else 1
        return (rank, -self.spec.priority, self.sequence)


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerView:
    """A worker as its latest presence shows it."""

    name: WorkerName
    #: Empty while the worker is known only as the holder of jobs (after a restart of the bridge).
    incarnation: str = ""
    #: The state folder that it works on.
    home: str = ""
    connection: int = 0
    #: The newest presence of this connection.
    sequence: int = -1
    state: WorkerState = WorkerState.OFFLINE
    queues: tuple[str, ...] = ()
    #: Slots it has.
    concurrency: int = 0
    #: From when the lease of its jobs counts, in seconds of the caller's monotonic clock: when it was last heard, or
    #: when it last began to hold jobs.
    lease_from: float = 0.0
    #: Number of the latest assignment to it among all assignments; 0 for none.
    last_assigned: int = 0

    @property
    def connected(self) -> bool:
        """Whether a message to it can arrive now, as far as we know."""
        return self.state is not WorkerState.OFFLINE

    def cost(self, slots: int) -> int:
        """Return how many of its slots a job of ``slots`` takes: never more than it has."""
        return min(slots, self.concurrency)
