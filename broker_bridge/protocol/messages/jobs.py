"""What a job is, and how it can end."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import Field

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.limits import MAX_INTEGER
from edge_mqtt.broker_bridge.protocol.messages.base import Part


class WorkloadType(StrEnum):
    """The workloads that Airflow hands an executor, by the names Airflow gives them."""

    TASK = "ExecuteTask"
    CALLBACK = "ExecuteCallback"
    CONNECTION_TEST = "TestConnection"


class JobSpec(Part):
    """What a job is: routing, order, the names people know it by, and the workload without its token."""

    job_id: JobId
    #: What kind of workload it is.
    type: WorkloadType
    queue: str = Field(min_length=1)
    #: Airflow's priority weight; a higher one goes first.
    priority: int = Field(default=1, ge=-MAX_INTEGER, le=MAX_INTEGER)
    #: Slots it takes on a worker: the task's ``pool_slots``.
    slots: int = Field(default=1, ge=1, le=MAX_INTEGER)
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
