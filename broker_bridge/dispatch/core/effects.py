"""What the dispatcher wants done, after the jobs that the decision changed are committed and not before."""

from __future__ import annotations

from dataclasses import dataclass

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import AdoptReply, Assign, Message


@dataclass(frozen=True, kw_only=True, slots=True)
class ToWorker:
    """Send on the worker's control topic. The offsets in a Welcome's log positions are for the sender to fill in."""

    worker: WorkerName
    message: Message


@dataclass(frozen=True, kw_only=True, slots=True)
class Assigned:
    """Send on the worker's assignment topic of ``queue``."""

    worker: WorkerName
    queue: str
    message: Assign


@dataclass(frozen=True, kw_only=True, slots=True)
class ToExecutor:
    """Send on the executor's events topic."""

    executor: ExecutorName
    message: Message


@dataclass(frozen=True, kw_only=True, slots=True)
class ToAdmin:
    """Send on the executor's admin response topic."""

    executor: ExecutorName
    message: AdoptReply


@dataclass(frozen=True, kw_only=True, slots=True)
class StartDecided:
    """Answer who asked to start a job."""

    request_id: str
    worker: WorkerName
    job_id: JobId
    granted: bool
    #: One line for people; empty when granted.
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Moved:
    """Take note that a job has begun to run, or has ended: told once of each, whoever hears of it how often."""

    job: Job


Effect = ToWorker | Assigned | ToExecutor | ToAdmin | StartDecided | Moved


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Commit ``changed`` in one transaction, then perform ``effects`` in order."""

    changed: tuple[Job, ...] = ()
    effects: tuple[Effect, ...] = ()
