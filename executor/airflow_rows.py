"""What the executor asks and tells Airflow's database about its own workloads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from airflow.models.callback import Callback
from airflow.models.connection_test import ConnectionTestRequest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import CallbackState, TaskInstanceState
from sqlalchemy import func, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import WorkloadType
from edge_mqtt.executor.errors import AirflowUnanswering

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

#: Jobs in one query.
_JOBS_PER_QUERY: Final = 500
#: The largest id of a Dag run.
_MAX_ID: Final = 2**31 - 1


def store_job_id(session: Session, task_instance_id: UUID, job_id: JobId) -> None:
    """Write which job is a task's, in the scheduler's transaction."""
    session.execute(
        update(TaskInstance)
        .where(TaskInstance.id == task_instance_id)
        .values(external_executor_id=job_id)
        .execution_options(synchronize_session=False)
    )


def queue_of_run(session: Session, dag_run_id: object, *, executors: Iterable[str], or_none: bool) -> str | None:
    """Return the queue of most tasks of a Dag run; None when it has none for these executors.

    :param dag_run_id: as a callback's data have it.
    :param executors: the names of an executor, of whose tasks alone the queues count.
    :param or_none: tasks that name no executor are its own, too.
    """
    text = str(dag_run_id)
    if not (text.isascii() and text.isdigit() and int(text[:20]) <= _MAX_ID):
        return None
    mine = TaskInstance.executor.in_(tuple(executors))
    return session.scalar(
        select(TaskInstance.queue)
        .join(DagRun, (DagRun.dag_id == TaskInstance.dag_id) & (DagRun.run_id == TaskInstance.run_id))
        .where(DagRun.id == int(text), TaskInstance.queue != "")
        .where(or_(mine, TaskInstance.executor.is_(None)) if or_none else mine)
        .group_by(TaskInstance.queue)
        .order_by(func.count().desc(), TaskInstance.queue)
        .limit(1)
    )


def wanted_jobs(job_ids: Iterable[JobId]) -> dict[JobId, WorkloadType]:
    """Return those of ``job_ids`` that Airflow waits for, and what they are.

    :raises AirflowUnanswering: the database does not answer.
    """
    wanted: dict[JobId, WorkloadType] = {}
    every = list(job_ids)
    try:
        # Not the scheduler's own session, which the end of this one would close.
        with create_session(scoped=False) as session:
            for start in range(0, len(every), _JOBS_PER_QUERY):
                wanted |= _wanted_of(session, every[start : start + _JOBS_PER_QUERY])
    except SQLAlchemyError as error:
        raise AirflowUnanswering(" ".join(str(error).split())) from error
    return wanted


def _wanted_of(session: Session, job_ids: list[JobId]) -> dict[JobId, WorkloadType]:
    # The state comes first: it has an index, and few are in these.
    alive = (TaskInstanceState.QUEUED, TaskInstanceState.RUNNING, TaskInstanceState.RESTARTING)
    tasks = session.scalars(
        select(TaskInstance.external_executor_id).where(
            TaskInstance.state.in_(alive), TaskInstance.external_executor_id.in_(job_ids)
        )
    )
    wanted = dict.fromkeys((JobId(job_id) for job_id in tasks if job_id), WorkloadType.TASK)
    by_id = {row_id: job_id for job_id in job_ids if (row_id := _as_uuid(job_id)) is not None}
    for model, kind in ((Callback, WorkloadType.CALLBACK), (ConnectionTestRequest, WorkloadType.CONNECTION_TEST)):
        wanted |= dict.fromkeys((by_id[row_id] for row_id in _alive_rows(session, model, by_id)), kind)
    return wanted


def _alive_rows(session: Session, model: Any, row_ids: Iterable[UUID]) -> Iterable[UUID]:
    # Callbacks and connection tests name their states alike.
    alive = (CallbackState.QUEUED.value, CallbackState.RUNNING.value)
    return session.scalars(select(model.id).where(model.id.in_(tuple(row_ids)), model.state.in_(alive)))


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
