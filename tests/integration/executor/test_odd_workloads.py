"""Whatever is in a workload, or in what the bridge says of it: that one is concerned, and the scheduler goes on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from airflow.executors.workloads import BundleInfo, ExecuteCallback, ExecuteTask
from airflow.executors.workloads import TestConnection as ConnectionTest
from airflow.executors.workloads.callback import CallbackDTO, CallbackFetchMethod
from airflow.executors.workloads.task import TaskInstanceDTO
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    CancelJob,
    JobFinished,
    JobStarted,
    Outcome,
    Submit,
    WorkloadType,
)
from edge_mqtt.executor import edge_mqtt_executor
from tests.support.fake_bridge import TwinBridge, new_job_id
from tests.support.scenario_executor import (
    MakeScheduler,
    Scheduler,
    make_run,
    set_task,
    task_instance,
)

pytestmark = pytest.mark.usefixtures("database")

TEXTS = st.one_of(
    st.sampled_from(["", " ", "\0", "\ud800", "a\udfffb", "../..", "/", "+/#", "$SYS", "é" * 300, "x" * 70_000]),
    st.text(max_size=20),
)
NUMBERS = st.one_of(st.sampled_from([0, 1, -1, 2**31, -(2**31) - 1, 2**63, -(2**63) - 1, 2**200]), st.integers(-3, 3))
DEEP: dict[str, Any] = {"end": 1}
for _ in range(400):
    DEEP = {"deeper": DEEP}
#: What stands in dicts of which Airflow does not know the fields.
THINGS = st.one_of(TEXTS, NUMBERS, st.none(), st.just(float("nan")), st.just(object()), st.just(DEEP), st.just({1}))
DATA = st.dictionaries(
    st.one_of(st.sampled_from(["queue", "dag_run_id", "dag_id", "path", "kwargs"]), TEXTS), THINGS, max_size=5
)

PROPERTY = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def around(scheduler: Scheduler) -> None:
    """Do all that Airflow's loop does with what the executor has."""
    scheduler.executor.heartbeat()
    scheduler.process_events()
    with create_session() as session:
        scheduler.runner._process_task_event_logs(scheduler.executor._task_event_logs, session)


def a_task(**fields: Any) -> ExecuteTask:
    """Return a task's workload; one of no task instance in the database, unless the fields say so."""
    beside: dict[str, Any] = {
        name: fields.pop(name) for name in ("token", "log_path", "dag_rel_path") if name in fields
    }
    values: dict[str, Any] = {
        "id": uuid4(),
        "task_id": "t",
        "dag_id": "none",
        "run_id": "r",
        "try_number": 1,
        "dag_version_id": uuid4(),
        "pool_slots": 1,
        "priority_weight": 1,
    }
    workload: dict[str, Any] = {"token": "a.b.c", "dag_rel_path": "d.py", "log_path": None}
    ti = TaskInstanceDTO(**{**values, **fields})
    return ExecuteTask(ti=ti, bundle_info=BundleInfo(name="bundle"), **{**workload, **beside})


def a_callback(callback_id: str, **data: Any) -> ExecuteCallback:
    callback = CallbackDTO.model_construct(id=callback_id, fetch_method=CallbackFetchMethod.IMPORT_PATH, data=data)
    return ExecuteCallback.model_construct(
        token="a.b.c",
        dag_rel_path=Path("d.py"),
        bundle_info=BundleInfo(name="bundle"),
        log_path="executor_callbacks/a",
        callback=callback,
    )


def check_one_is_spared(scheduler: Scheduler, bridge: TwinBridge, odd: ExecuteTask | ExecuteCallback) -> None:
    """Have the scheduler take an odd workload and a plain one, and see that the plain one does not suffer."""
    bridge.hear_everything()
    plain = a_task(id=uuid4(), task_id=f"plain {uuid4()}")
    with create_session() as session:
        scheduler.executor.queue_workload(odd, session=session)
        scheduler.executor.queue_workload(plain, session=session)
    around(scheduler)
    around(scheduler)
    submitted = [message.job for message in bridge.hear_everything() if isinstance(message, Submit)]
    assert plain.ti.task_id in [job.task_id for job in submitted]
    assert (scheduler.executor.queued_tasks, scheduler.executor.queued_callbacks) == ({}, {})
    assert len(submitted) == 2 or odd.key not in scheduler.executor.running
    for job in submitted:
        bridge.tell(JobStarted(job_id=job.job_id, worker="w"))
        bridge.tell(JobFinished(job_id=job.job_id, type=job.type, outcome=Outcome.SUCCESS))
    around(scheduler)
    around(scheduler)
    assert scheduler.executor.running == set()


def test_a_task_whose_every_field_is_odd_concerns_nobody_else(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    bridge.wait_for_executor()

    @PROPERTY
    @given(
        fields=st.fixed_dictionaries(
            {},
            optional={
                **dict.fromkeys(("task_id", "dag_id", "run_id", "queue", "token", "dag_rel_path"), TEXTS),
                **dict.fromkeys(("try_number", "map_index", "pool_slots", "priority_weight"), NUMBERS),
                **dict.fromkeys(("hostname", "external_executor_id", "log_path"), st.one_of(st.none(), TEXTS)),
                "context_carrier": st.one_of(st.none(), DATA),
            },
        )
    )
    @example(fields={"queue": ""})
    @example(fields={"context_carrier": DEEP})
    @example(fields={"task_id": "\ud800"})
    def check(fields: dict[str, Any]) -> None:
        check_one_is_spared(scheduler, bridge, a_task(**fields))

    check()


def test_a_callback_whose_every_field_is_odd_concerns_nobody_else(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler()
    bridge.wait_for_executor()

    @PROPERTY
    @given(callback_id=st.one_of(TEXTS, st.uuids().map(str)), data=DATA)
    @example(callback_id="", data={})
    @example(callback_id="not a uuid", data={"kwargs": object()})
    @example(callback_id=str(UUID(int=1)), data={"queue": 7})
    @example(callback_id=str(UUID(int=2)), data={"dag_run_id": "9" * 400})
    def check(callback_id: str, data: dict[str, Any]) -> None:
        check_one_is_spared(scheduler, bridge, a_callback(callback_id, **data))

    check()


def test_an_odd_task_of_a_dead_scheduler_does_not_keep_the_next_from_adopting_and_revoking(
    bridge: TwinBridge, make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_mqtt_executor, "ADOPT_TIMEOUT_S", 1.0)
    make_run({"task_id": "odd"}, {"task_id": "plain"})
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    fields = {
        **dict.fromkeys(("queue", "external_executor_id", "dag_id", "run_id", "task_id"), TEXTS),
        **dict.fromkeys(("pool_slots", "priority_weight", "map_index", "try_number"), NUMBERS),
        "context_carrier": DATA,
    }

    @PROPERTY
    @given(values=st.fixed_dictionaries({}, optional=fields))
    @example(values={"queue": ""})
    @example(values={"external_executor_id": "\ud800"})
    def check(values: dict[str, Any]) -> None:
        bridge.hear_everything()
        for task in ("odd", "plain"):
            set_task(task, state=TaskInstanceState.QUEUED, external_executor_id=new_job_id())
        odd, plain = rows("odd", "plain")
        for name, value in values.items():
            setattr(odd, name, value)
        given_back = scheduler.executor.try_adopt_task_instances([odd, plain])
        assert plain not in given_back
        assert plain.external_executor_id in bridge.states
        around(scheduler)
        for ti in (odd, plain):
            scheduler.executor.revoke_task(ti=ti)
        assert plain.external_executor_id in [m.job_id for m in bridge.hear_everything() if isinstance(m, CancelJob)]
        assert scheduler.executor.running == set()

    check()


def rows(*task_ids: str) -> list[TaskInstance]:
    """Return task instances that a test may change without changing the database."""
    with create_session() as session:
        found = [session.scalars(select(TaskInstance).where(TaskInstance.task_id == one)).one() for one in task_ids]
        for ti in found:
            _ = ti.key, ti.dag_run.bundle_version, ti.dag_run.log_template_id, ti.dag_model.bundle_name
        session.expunge_all()
        return found


def test_an_empty_queue_is_the_default_queue(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t", "queue": ""})
    scheduler = make_scheduler()
    scheduler.loop()
    submit = bridge.expect(Submit)
    assert (submit.job.queue, submit.job.job_id) == ("default", task_instance().external_executor_id)
    scheduler.die()
    successor = make_scheduler()
    successor.runner.adopt_or_reset_orphaned_tasks()
    assert bridge.expect(Submit).job.queue == "default"
    assert task_instance().state == TaskInstanceState.QUEUED


def test_a_task_that_cannot_be_submitted_fails_with_the_reason_where_its_owner_looks(
    bridge: TwinBridge, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    with create_session() as session:
        scheduler.runner._do_scheduling(session)
        (workload,) = scheduler.executor.queued_tasks.values()
        workload.ti.context_carrier = {"traceparent": "\ud800"}
    with caplog.at_level(logging.ERROR, logger="edge_mqtt.executor"):
        around(scheduler)
    ti = task_instance()
    assert ti.state == TaskInstanceState.FAILED
    why = "workload: it has text that is not Unicode: half a character"
    (line,) = [
        entry.getMessage()
        for entry in caplog.records
        if entry.name.startswith("edge_mqtt.") and entry.levelno >= logging.ERROR
    ]
    assert line == f"job {ti.external_executor_id} is not submitted: {why}: {ti.key}"
    with create_session() as session:
        entries = {entry.event: str(entry.extra) for entry in session.scalars(select(Log).where(Log.task_id == "t"))}
    assert entries["edge job not submitted"] == why
    assert entries["state mismatch"].endswith(f"Extra info: {why}")


@pytest.mark.parametrize("detail", ["\ud800", "a\0b", "x" * 100_000])
def test_what_a_worker_says_of_an_end_does_not_end_the_scheduler(
    bridge: TwinBridge, make_scheduler: MakeScheduler, detail: str
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    scheduler.loop()
    job_id = bridge.expect(Submit).job.job_id
    scheduler.executor.on_finished(JobFinished.model_construct(job_id=job_id, outcome=Outcome.LOST, detail=detail))
    around(scheduler)
    assert task_instance().state == TaskInstanceState.FAILED


def test_the_end_of_a_callback_that_no_database_can_have_is_acknowledged(
    bridge: TwinBridge, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    bridge.tell(JobFinished(job_id=JobId("no uuid"), type=WorkloadType.CALLBACK, outcome=Outcome.SUCCESS))
    around(scheduler)
    assert "Airflow is not told that a workload is success" in caplog.text
    assert scheduler.executor.event_buffer == {}


def test_a_workload_of_another_airflow_is_left_out_with_one_line(
    make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make_scheduler()
    with create_session() as session:
        scheduler.executor.queue_workload(object(), session=session)  # type: ignore[arg-type]  # from the future
    assert "a object is not submitted: ValueError at base_executor.py:" in caplog.text
    assert "Un-handled workload type 'object'" in caplog.text


def test_a_connection_test_without_a_queue_of_its_own_goes_to_the_default_one(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler()
    workload = ConnectionTest(token="a", connection_test_id=uuid4(), connection_id="\ud800", timeout=-1, queue="")
    with create_session() as session:
        scheduler.executor.queue_workload(workload, session=session)
    around(scheduler)
    assert scheduler.executor.running == set(), "it fails alone"
    workload = ConnectionTest(token="a", connection_test_id=uuid4(), connection_id="db", timeout=1, queue="")
    with create_session() as session:
        scheduler.executor.queue_workload(workload, session=session)
    around(scheduler)
    assert bridge.expect(Submit).job.queue == "default"
