"""A job on its worker: how far it is, and what an assignment does to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Final, Self

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    Assign,
    Finished,
    HeldJob,
    JobSpec,
    ReportedJobState,
    WorkloadType,
)


class LocalJobState(StrEnum):
    """A job's way through the worker."""

    #: In the spool, waiting for its slots.
    ACCEPTED = "accepted"
    #: In the spool as launched: its supervisor runs, ran, or was about to.
    LAUNCHED = "launched"
    #: It ended; result and log are kept until the bridge has them.
    FINISHED = "finished"
    #: Not ours any more: its supervisor is being stopped and nothing is reported.
    DROPPED = "dropped"


#: The one transition table. None is the state of a job that the worker does not have.
TRANSITIONS: Final[Mapping[LocalJobState, frozenset[LocalJobState | None]]] = {
    LocalJobState.ACCEPTED: frozenset({LocalJobState.LAUNCHED, LocalJobState.FINISHED, None}),
    LocalJobState.LAUNCHED: frozenset({LocalJobState.FINISHED, LocalJobState.DROPPED, None}),
    LocalJobState.FINISHED: frozenset({None}),
    LocalJobState.DROPPED: frozenset({None}),
}

#: What the bridge is told of a job in each state; a dropped one is not mentioned.
_REPORTED: Final = {
    LocalJobState.ACCEPTED: ReportedJobState.ACCEPTED,
    LocalJobState.LAUNCHED: ReportedJobState.RUNNING,
    LocalJobState.FINISHED: ReportedJobState.FINISHED,
}

#: What a workload must have for a supervisor to be started on it.
_NEEDED_OF_WORKLOAD: Final = {
    WorkloadType.TASK: ("ti", "bundle_info", "dag_rel_path"),
    WorkloadType.CALLBACK: ("callback", "bundle_info", "dag_rel_path"),
    WorkloadType.CONNECTION_TEST: ("connection_test_id", "connection_id", "timeout"),
}


class IllegalTransition(Exception):
    """A bug: the job cannot go there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalJob:
    """One job on this worker, as the spool has it."""

    spec: JobSpec
    fence: Fence
    #: Seconds that it may go on after a confirmed contact with the bridge.
    lease_s: float
    #: Whether its log is shipped; otherwise it stays here.
    ships_log: bool = True
    state: LocalJobState = LocalJobState.ACCEPTED
    #: Opens the worker's socket for the job's supervisor; nothing else knows it.
    secret: str = field(default="", repr=False)
    #: Tells the files of its launch from those of any other; empty until it is launched.
    launch: str = ""
    #: Size in bytes of the log file when the job was launched: its own log begins there.
    log_base: int = 0
    result: Finished | None = None
    result_acked: bool = False

    @classmethod
    def from_assignment(cls, assign: Assign) -> Self:
        """Return the job of an assignment."""
        return cls(spec=assign.job, fence=assign.fence, lease_s=assign.lease_s, ships_log=assign.ships_log)

    @property
    def job_id(self) -> JobId:
        """The job's id."""
        return self.spec.job_id

    @property
    def label(self) -> str:
        """What people call the job."""
        spec = self.spec
        if not spec.task_id:
            return f"{spec.type} {spec.job_id}"
        index = f"[{spec.map_index}]" if spec.map_index >= 0 else ""
        return f"{spec.dag_id}.{spec.task_id}{index} {spec.run_id} try {spec.try_number}"

    def is_settled(self, *, log_stored: bool) -> bool:
        """Tell whether the bridge has everything, so that the job can be forgotten.

        :param log_stored: the bridge has the job's log.
        """
        return self.result is not None and self.result_acked and log_stored

    def moved_to(self, state: LocalJobState, **changes: object) -> LocalJob:
        """Return the job in ``state``.

        :raises IllegalTransition: the transition table has no such way.
        """
        if state not in TRANSITIONS[self.state]:
            raise IllegalTransition(f"job {self.job_id} cannot go from {self.state} to {state}")
        return replace(self, state=state, **changes)  # type: ignore[arg-type]  # callers name real fields

    def to_report(self) -> HeldJob | None:
        """Return what the presence says of it."""
        state = _REPORTED.get(self.state)
        return None if state is None else HeldJob(job_id=self.job_id, fence=self.fence, state=state)


class Verdict(StrEnum):
    """What to do with an assignment."""

    #: Store it, then accept.
    ACCEPT = "accept"
    #: It is stored: accept again.
    CONFIRM = "confirm"
    #: An earlier assignment of the same job, overtaken on the way.
    IGNORE = "ignore"
    #: Store it in the place of the earlier one, which has not started.
    REPLACE = "replace"
    #: Say why not.
    REJECT = "reject"


@dataclass(frozen=True, kw_only=True, slots=True)
class AssignmentDecision:
    """A verdict, and for a rejection its reason."""

    verdict: Verdict
    reason: str = ""
    #: The job can run nowhere.
    permanent: bool = False
    #: This worker can take no other job now either.
    takes_none: bool = False


def decide_assignment(
    assign: Assign, current: LocalJob | None, *, queues: Collection[str], draining: bool
) -> AssignmentDecision:
    """Decide what to do with ``assign`` when ``current`` is what we have of the same job."""
    if current is not None and assign.fence <= current.fence:
        confirmed = assign.fence == current.fence and current.state is not LocalJobState.DROPPED
        return AssignmentDecision(verdict=Verdict.CONFIRM if confirmed else Verdict.IGNORE)
    if current is not None and current.state is not LocalJobState.ACCEPTED:
        return _reject(f"an earlier assignment of the job ({current.fence}) is still {current.state} here")
    if assign.job.queue not in queues:
        return _reject(f"this worker does not serve queue {assign.job.queue!r}")
    if draining:
        return AssignmentDecision(verdict=Verdict.REJECT, reason="this worker is draining", takes_none=True)
    wrong = problem_of(assign.job)
    if wrong:
        return AssignmentDecision(verdict=Verdict.REJECT, reason=wrong, permanent=True)
    return AssignmentDecision(verdict=Verdict.ACCEPT if current is None else Verdict.REPLACE)


def _reject(reason: str) -> AssignmentDecision:
    return AssignmentDecision(verdict=Verdict.REJECT, reason=reason)


def problem_of(spec: JobSpec) -> str:
    """Return why no worker could ever run ``spec``; empty when one could."""
    missing = [key for key in _NEEDED_OF_WORKLOAD[spec.type] if not spec.workload.get(key)]
    if missing:
        return f"the {spec.type} workload has no {', '.join(missing)}"
    if spec.log_path is not None:
        path = PurePosixPath(spec.log_path)
        if not spec.log_path or path.is_absolute() or ".." in path.parts:
            return f"the log path {spec.log_path!r} leaves the log folder"
    return ""
