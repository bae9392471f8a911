"""Airflow's scheduler and metadata database for the executor's tests, with a twin for the bridge."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# Before Airflow's first import, which reads it. Whoever set it already may keep it: the database is our own below.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import airflow.models
import pytest
from airflow import settings as airflow_settings
from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.executors.executor_utils import ExecutorName as AirflowExecutorName
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.base import Base
from airflow.models.dagbundle import DagBundleModel
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.serialization.serialized_objects import DagSerialization, LazyDeserializedDAG
from airflow.utils.db import add_default_pool_if_not_exists, synchronize_log_template
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import EventAck, Submit
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.executor import EdgeMqttExecutor
from edge_mqtt.executor.bridge_client import PreparedConnection
from edge_mqtt.executor.settings import ExecutorSettings
from tests.support.fake_bridge import TwinBridge, line_to

CLASS_PATH = "edge_mqtt.executor.EdgeMqttExecutor"
START = datetime(2024, 1, 1, tzinfo=UTC)
RUN_ID = "manual__1"


@contextmanager
def airflow_database(url: str, certs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make Airflow's tables at ``url`` and have everything of Airflow use them."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", url)
    monkeypatch.setenv("AIRFLOW__API_AUTH__JWT_SECRET", "a secret of these tests, long enough for HS512 " * 2)
    monkeypatch.setenv("AIRFLOW__EDGE_MQTT__BRIDGE_URL", "wss://bridge.test:443/mqtt")
    monkeypatch.setenv("AIRFLOW__EDGE_MQTT__EXECUTOR_CERTS", str(certs))
    airflow_settings.configure_vars()
    airflow_settings.configure_orm()
    airflow.models.import_all_models()
    Base.metadata.create_all(airflow_settings.engine)
    with create_session() as session:
        synchronize_log_template(session=session)
        add_default_pool_if_not_exists(session=session)
        session.add(DagBundleModel(name="bundle"))
    yield
    airflow_settings.dispose_orm()


class TwinExecutor(EdgeMqttExecutor):
    """The executor with a memory line and a clock that a test can move."""

    ahead_s = 0.0

    def __init__(self, broker: MemoryBroker, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._broker = broker

    def _prepare_connection(self, settings: ExecutorSettings) -> PreparedConnection:
        return line_to(self._broker)

    def now(self) -> float:
        return super().now() + self.ahead_s


class Scheduler:
    """Airflow's scheduler, one loop at a time."""

    def __init__(self, executor: TwinExecutor, *others: Any) -> None:
        self.executor = executor
        self.job = Job()
        self.runner = SchedulerJobRunner(job=self.job, executors=[*others, executor])
        self.job.prepare_for_execution()
        executor.start()

    def loop(self) -> None:
        """Do what ``SchedulerJobRunner._run_scheduler_loop`` does with executors."""
        with create_session() as session:
            self.runner._do_scheduling(session)
            session.expunge_all()
        self.executor.heartbeat()
        self.process_events()

    def process_events(self) -> None:
        with create_session() as session:
            self.runner._process_executor_events(executor=self.executor, session=session)

    def die(self) -> None:
        """Be gone without a word, as after kill -9, and be known to be dead."""
        self.executor.terminate()
        with create_session() as session:
            job = session.get(Job, self.job.id)
            assert job is not None
            job.latest_heartbeat = START


MakeScheduler = Callable[..., Scheduler]


@contextmanager
def schedulers(broker: MemoryBroker) -> Iterator[MakeScheduler]:
    """Give what makes schedulers; end them all afterwards."""
    made: list[Scheduler] = []

    def make(*others: Any, **kwargs: Any) -> Scheduler:
        executor = TwinExecutor(broker, **kwargs)
        executor.name = AirflowExecutorName(module_path=CLASS_PATH)
        made.append(Scheduler(executor, *others))
        return made[-1]

    yield make
    for scheduler in made:
        scheduler.executor.terminate()


def make_run(*tasks: dict[str, Any]) -> None:
    """Make a Dag with these tasks and a run of it."""
    with DAG("a-dag", schedule=None, start_date=START, is_paused_upon_creation=False) as dag:
        for task in tasks:
            EmptyOperator(**{"on_success_callback": print, **task})
    with create_session() as session:
        update_dag_parsing_results_in_db(
            "bundle", None, [LazyDeserializedDAG.from_dag(dag)], {}, None, set(), session
        )
    with create_session() as session:
        serialized: Any = DagSerialization.from_dict(DagSerialization.to_dict(dag))
        serialized.create_dagrun(
            run_id=RUN_ID,
            run_after=START,
            state=DagRunState.RUNNING,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            session=session,
        )


def task_instance(task_id: str = "t") -> TaskInstance:
    with create_session() as session:
        ti = session.scalars(select(TaskInstance).where(TaskInstance.task_id == task_id)).one()
        _ = ti.key, ti.dag_run
        session.expunge_all()
        return ti


def set_task(task_id: str = "t", **values: Any) -> None:
    with create_session() as session:
        ti = session.scalars(select(TaskInstance).where(TaskInstance.task_id == task_id)).one()
        for name, value in values.items():
            setattr(ti, name, value)


def submitted(scheduler: Scheduler, bridge: TwinBridge) -> JobId:
    """Schedule the one task and return its job."""
    scheduler.loop()
    return bridge.expect(Submit).job.job_id


def acks(bridge: TwinBridge) -> list[JobId]:
    return [message.job_id for message in bridge.hear_everything() if isinstance(message, EventAck)]
