"""Tasks under Airflow's real scheduler code become jobs, with a twin for the bridge."""

from __future__ import annotations

import pytest
from airflow.executors import executor_loader
from airflow.executors.executor_utils import ExecutorName as AirflowExecutorName
from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import ExecuteTask
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from edge_mqtt.broker_bridge.protocol.messages import Submit, WorkloadType
from tests.support.fake_bridge import TwinBridge, new_job_id
from tests.support.scenario_executor import CLASS_PATH, RUN_ID, MakeScheduler, make_run, set_task, task_instance

pytestmark = pytest.mark.usefixtures("database")


def test_a_scheduled_task_is_submitted_under_the_id_that_airflow_stored(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t", "queue": "press/1", "priority_weight": 7, "pool_slots": 3})
    scheduler = make_scheduler()
    scheduler.loop()
    submit = bridge.expect(Submit)
    ti = task_instance()
    assert ti.state == TaskInstanceState.QUEUED
    assert submit.job.job_id == ti.external_executor_id
    assert (submit.job.queue, submit.job.priority, submit.job.slots) == ("press/1", 7, 3)
    assert (submit.job.type, submit.job.dag_id, submit.job.run_id) == (WorkloadType.TASK, "a-dag", RUN_ID)
    assert (submit.job.task_id, submit.job.map_index, submit.job.try_number) == ("t", -1, 1)
    assert submit.job.log_path is not None
    assert submit.job.log_path.endswith("attempt=1.log")
    assert scheduler.executor.running == {ti.key}
    assert scheduler.executor.queued_tasks == {}


def test_the_token_travels_beside_the_workload_and_the_rest_makes_it_whole_again(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    make_scheduler().loop()
    submit = bridge.expect(Submit)
    assert submit.token.count(".") == 2
    assert submit.token not in str(submit.job.model_dump())
    assert "token" not in submit.job.workload
    again = ExecuteTask.model_validate({**submit.job.workload, "token": "local secret"})
    assert again.ti.task_id == "t"
    assert again.log_path == submit.job.log_path


def test_nothing_is_submitted_before_the_commit(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    with create_session() as session:
        scheduler.runner._do_scheduling(session)
        assert len(scheduler.executor.queued_tasks) == 1
        assert bridge.hear_everything() == []
    scheduler.executor.heartbeat()
    bridge.expect(Submit)


def test_parallelism_is_respected_and_higher_priority_goes_first(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "low", "priority_weight": 1}, {"task_id": "high", "priority_weight": 9})
    scheduler = make_scheduler(parallelism=1)
    scheduler.loop()
    first = bridge.expect(Submit)
    assert first.job.task_id == "high"
    scheduler.loop()
    assert not [m for m in bridge.hear_everything() if isinstance(m, Submit)]
    set_task("high", state=TaskInstanceState.SUCCESS)
    bridge.finished(first.job.job_id)
    scheduler.loop()
    scheduler.loop()
    assert bridge.expect(Submit).job.task_id == "low"


def test_beside_another_executor_a_task_may_choose_by_class_name_and_has_a_stored_id(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t", "executor": "EdgeMqttExecutor"}, {"task_id": "local"})
    local = LocalExecutor()
    local.name = AirflowExecutorName(
        module_path="airflow.executors.local_executor.LocalExecutor", alias="LocalExecutor"
    )
    scheduler = make_scheduler(local)
    with create_session() as session:
        scheduler.runner._do_scheduling(session)
    stored = task_instance("t").external_executor_id
    assert stored is not None
    assert task_instance("local").external_executor_id is None
    assert [key.task_id for key in local.queued_tasks] == ["local"]
    scheduler.executor.heartbeat()
    submit = bridge.expect(Submit)
    assert (submit.job.task_id, submit.job.job_id) == ("t", stored)


def test_beside_an_executor_without_ids_a_task_gets_a_new_one_in_place_of_its_earlier_job_s(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    earlier = new_job_id()
    set_task(state=TaskInstanceState.QUEUED, external_executor_id=earlier)
    assert not scheduler.executor.is_given_ids, "LocalExecutor is configured"
    with create_session() as session:
        ti = session.scalars(select(TaskInstance)).one()
        scheduler.executor.queue_workload(ExecuteTask.make(ti), session=session)
    stored = task_instance().external_executor_id
    assert stored not in (None, earlier)
    scheduler.executor.heartbeat()
    assert bridge.expect(Submit).job.job_id == stored


def test_the_id_that_airflow_assigns_is_kept_where_every_executor_has_it_do_so(
    bridge: TwinBridge, make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", CLASS_PATH)
    monkeypatch.setattr(executor_loader, "_executor_names", [])
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    with create_session() as session:
        scheduler.runner._do_scheduling(session)
        (workload,) = scheduler.executor.queued_tasks.values()
        assigned = session.scalars(select(TaskInstance.external_executor_id)).one()
        assert workload.ti.external_executor_id == assigned
    assert scheduler.executor.is_given_ids
    scheduler.executor.heartbeat()
    assert bridge.expect(Submit).job.job_id == assigned


def test_jobs_wait_for_a_bridge_that_is_away_and_none_is_lost(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"}, {"task_id": "u"})
    bridge.broker.stop()
    scheduler = make_scheduler()
    scheduler.loop()
    assert len(scheduler.executor.running) == 2
    bridge.broker.start()
    assert {bridge.expect(Submit).job.task_id, bridge.expect(Submit).job.task_id} == {"t", "u"}
