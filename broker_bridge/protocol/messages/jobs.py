"""What a job is, and how it can end."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from pydantic import Field, ValidationError

from edge_mqtt.broker_bridge.protocol.errors import problem_of
from edge_mqtt.broker_bridge.protocol.messages import bounds
from edge_mqtt.broker_bridge.protocol.messages.base import Part


class WorkloadType(StrEnum):
    """The workloads that Airflow hands an executor, by the names Airflow gives them."""

    TASK = "ExecuteTask"
    CALLBACK = "ExecuteCallback"
    CONNECTION_TEST = "TestConnection"


class JobSpec(Part):
    """What a job is: routing, order, the names people know it by, and the workload without its token."""

    job_id: bounds.JobId
    #: What kind of workload it is.
    type: WorkloadType
    queue: bounds.RequiredName
    #: Airflow's priority weight; a higher one goes first.
    priority: bounds.Integer = 1
    #: Slots it takes on a worker: the task's ``pool_slots``.
    slots: bounds.Slots = 1
    dag_id: bounds.Name = ""
    run_id: bounds.Name = ""
    task_id: bounds.Name = ""
    map_index: bounds.SmallInteger = -1
    try_number: bounds.SmallInteger = 0
    #: Path of the log below Airflow's base_log_folder.
    log_path: bounds.Path | None = None
    #: Airflow's workload as JSON, without its token.
    workload: bounds.Workload = Field(default_factory=dict, repr=False)

    @classmethod
    def stored(cls, facts: Mapping[str, Any]) -> JobSpec:
        """Return a job as it was stored: it was checked when it came, perhaps by an earlier version's bounds.

        :param facts: every field.
        """
        return cls.model_construct(**facts)

    def problem(self) -> str | None:
        """Return what keeps a stored job from being sent, in one line; None when nothing does."""
        try:
            type(self).model_validate(dict(self))
        except ValidationError as error:
            return problem_of(error)
        return None


class Outcome(StrEnum):
    """How a job ended."""

    SUCCESS = "success"
    FAILED = "failed"
    #: Its worker went away for longer than offline_grace, or came back without it.
    LOST = "lost"
    CANCELLED = "cancelled"
