"""Airflow's workloads as jobs. The one place that knows how workloads and their keys look in which Airflow."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeGuard

from airflow.executors.workloads import ExecuteCallback, ExecuteTask, TestConnection
from airflow.models.callback import CallbackKey
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState, TerminalTIState

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Submit, WorkloadType
from edge_mqtt.executor.errors import WorkloadTooLarge

if TYPE_CHECKING:
    from airflow.api_fastapi.auth.tokens import JWTGenerator
    from airflow.executors.workloads import ExecutorWorkload
    from airflow.executors.workloads.types import WorkloadKey
    from airflow.models.taskinstance import TaskInstance

#: The priority of workloads to which Airflow gives none; the bridge takes callbacks before tasks anyway.
_NO_PRIORITY = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A workload, ready to be submitted."""

    key: WorkloadKey
    job: JobSpec
    token: str = field(repr=False)

    def check_sendable(self, max_bytes: int) -> None:
        """Return when it can travel.

        :param max_bytes: of the workload alone.
        :raises WorkloadTooLarge: it is larger.
        :raises ValidationError: its token has no form on the wire; of the rest its model has seen to that.
        """
        Submit(job=self.job, token=self.token)
        size = len(json.dumps(self.job.workload, ensure_ascii=False, separators=(",", ":")).encode())
        if size > max_bytes:
            raise WorkloadTooLarge(
                f"the workload of {size} bytes is over the limit of {max_bytes} bytes ([edge_mqtt] max_message_size)"
            )


def is_task_key(key: object) -> TypeGuard[TaskInstanceKey]:
    """Tell whether ``key`` is a task instance's: only for those does Airflow say which events it has handled."""
    return isinstance(key, TaskInstanceKey)


def is_final(state: str) -> bool:
    """Tell whether a task that has told Airflow this state is over, and does not go on as another job."""
    return state in frozenset(TerminalTIState)


def callback_key(job_id: JobId) -> CallbackKey:
    """Return Airflow's key of the callback that a job runs."""
    return CallbackKey(id=job_id)


def key_of(workload: ExecutorWorkload) -> WorkloadKey | None:
    """Return Airflow's key of ``workload``; None when it has none by which it could be kept."""
    try:
        key = workload.key
        hash(key)
    except (AttributeError, TypeError):
        return None
    return key


def job_id_of(workload: ExecutorWorkload) -> JobId:
    """Return the id that Airflow has stored for ``workload``, whatever it is; else a new one."""
    if isinstance(workload, ExecuteTask):
        known = workload.ti.external_executor_id
    elif isinstance(workload, ExecuteCallback):
        known = workload.callback.id
    else:
        known = str(workload.connection_test_id)
    return JobId(known or new_job_id())


def new_job_id() -> JobId:
    """Return an id that no job has had."""
    return JobId(str(uuid.uuid4()))


def resubmission_of(ti: TaskInstance, *, generator: JWTGenerator, default_queue: str) -> Submission | None:
    """Return the job of a task that a scheduler queued before it died, as that one submitted it or was about to.

    None when there is none to submit: the task has gone beyond that, or its Dag is gone.
    """
    if ti.state != TaskInstanceState.QUEUED or ti.dag_version_id is None or ti.dag_model is None:
        return None
    return submission_of(ExecuteTask.make(ti, generator=generator), default_queue=default_queue)


def submission_of(workload: ExecutorWorkload, *, default_queue: str, callback_queue: str = "") -> Submission:
    """Return the job that ``workload`` is.

    :param default_queue: the queue of workloads that name none.
    :param callback_queue: the queue of a callback that names none; empty: the default queue.
    :raises TypeError: it is not a workload that Airflow 3.3 gives to executors.
    :raises ValidationError: a field of it cannot be a job's.
    """
    if isinstance(workload, ExecuteTask):
        return _task(workload, default_queue)
    if isinstance(workload, ExecuteCallback):
        return _callback(workload, callback_queue or default_queue)
    if isinstance(workload, TestConnection):
        return _connection_test(workload, default_queue)
    raise TypeError(f"an executor of this version cannot run a {type(workload).__name__}")


def _task(workload: ExecuteTask, default_queue: str) -> Submission:
    ti = workload.ti
    job = JobSpec(
        job_id=job_id_of(workload),
        type=WorkloadType.TASK,
        # Airflow stores an empty queue as it is.
        queue=ti.queue or default_queue,
        priority=ti.priority_weight,
        slots=max(1, ti.pool_slots),
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        map_index=-1 if ti.map_index is None else ti.map_index,
        try_number=ti.try_number,
        log_path=workload.log_path,
        workload=_without_token(workload),
    )
    return Submission(key=workload.key, job=job, token=workload.token)


def _callback(workload: ExecuteCallback, queue: str) -> Submission:
    job = JobSpec(
        job_id=job_id_of(workload),
        type=WorkloadType.CALLBACK,
        queue=workload.callback.data.get("queue") or queue,
        priority=_NO_PRIORITY,
        dag_id=str(workload.callback.data.get("dag_id") or ""),
        log_path=workload.log_path,
        workload=_without_token(workload),
    )
    return Submission(key=workload.key, job=job, token=workload.token)


def _connection_test(workload: TestConnection, default_queue: str) -> Submission:
    job = JobSpec(
        job_id=job_id_of(workload),
        type=WorkloadType.CONNECTION_TEST,
        queue=workload.queue or default_queue,
        priority=_NO_PRIORITY,
        workload=_without_token(workload),
    )
    return Submission(key=workload.key, job=job, token=workload.token)


def _without_token(workload: ExecutorWorkload) -> dict[str, object]:
    """Return the workload as JSON: the token stays in the data centre, the rest goes to the worker."""
    return workload.model_dump(mode="json", exclude={"token"})
