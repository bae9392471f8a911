"""What waits for a worker: Airflow is asked whether it still wants it, and a callback does not wait for ever."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from airflow.executors import executor_loader
from airflow.executors.workloads.callback import CallbackFetchMethod
from airflow.models.callback import Callback, CallbackKey, ExecutorCallback
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.definitions.callback import SyncCallback
from airflow.utils.session import create_session
from airflow.utils.state import CallbackState, TaskInstanceState
from sqlalchemy import delete, select
from sqlalchemy.exc import OperationalError

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    CancelJob,
    JobAccepted,
    JobFinished,
    Outcome,
    Submit,
    WorkloadType,
)
from edge_mqtt.executor import airflow_rows, job_events
from edge_mqtt.executor.waiting_jobs import LOOK_EVERY_S
from tests.support.fake_bridge import TwinBridge, new_job_id
from tests.support.scenario_executor import (
    CLASS_PATH,
    MakeScheduler,
    Scheduler,
    airflow_database,
    make_run,
    set_task,
    submitted,
    task_instance,
)

TIMEOUT_S = 700.0


@pytest.fixture(autouse=True)
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT", str(TIMEOUT_S))
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", CLASS_PATH)
    monkeypatch.setattr(executor_loader, "_executor_names", [])
    monkeypatch.setattr(executor_loader, "_team_name_to_executors", defaultdict(list))
    with airflow_database(f"sqlite:///{tmp_path}/airflow.db", tmp_path / "certs", monkeypatch):
        yield


def look(scheduler: Scheduler) -> None:
    """Have the executor look after what waits."""
    scheduler.executor.ahead_s += LOOK_EVERY_S
    scheduler.executor.heartbeat()
    scheduler.process_events()


def cancels(bridge: TwinBridge) -> list[CancelJob]:
    return [message for message in bridge.hear_everything() if isinstance(message, CancelJob)]


def take_back(bridge: TwinBridge, job_id: JobId) -> None:
    """Say what a bridge says of a job that was withdrawn in time."""
    bridge.states[job_id] = "finished"
    bridge.tell(JobFinished(job_id=job_id, outcome=Outcome.CANCELLED, detail="revoked by Airflow", revoked=True))


# ---------------------------------------------------------------- tasks


@pytest.mark.parametrize("state", [TaskInstanceState.FAILED, TaskInstanceState.SUCCESS, None])
def test_a_job_whose_task_was_marked_or_cleared_is_taken_back(
    bridge: TwinBridge, make_scheduler: MakeScheduler, state: TaskInstanceState | None
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    look(scheduler)
    assert cancels(bridge) == [], "Airflow waits for it"
    set_task(state=state)
    look(scheduler)
    assert cancels(bridge) == [CancelJob(job_id=job_id, unless_started=True)]
    take_back(bridge, job_id)
    scheduler.executor.sync()
    assert (scheduler.executor.running, scheduler.executor.event_buffer) == (set(), {})


def test_a_job_whose_task_has_another_one_is_taken_back(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    set_task(external_executor_id=new_job_id())
    look(scheduler)
    assert [cancel.job_id for cancel in cancels(bridge)] == [job_id]


def test_a_job_whose_run_was_deleted_is_taken_back(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    with create_session() as session:
        session.execute(delete(TaskInstance))
        session.execute(delete(DagRun))
    look(scheduler)
    assert [cancel.job_id for cancel in cancels(bridge)] == [job_id]


def test_a_job_that_has_started_is_left_to_its_heartbeats(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    bridge.started(job_id)
    # Its process may have a callback to run yet.
    set_task(state=TaskInstanceState.SUCCESS)
    look(scheduler)
    look(scheduler)
    assert cancels(bridge) == []


def test_what_an_executor_left_waiting_is_compared_after_its_restart(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "wanted"}, {"task_id": "unwanted"})
    old = make_scheduler()
    old.loop()
    jobs = {submit.job.task_id: submit.job.job_id for submit in (bridge.expect(Submit), bridge.expect(Submit))}
    set_task("unwanted", state=TaskInstanceState.FAILED)
    old.die()
    new = make_scheduler()
    bridge.wait_for_executor()
    for job_id in jobs.values():
        bridge.tell(JobAccepted(job_id=job_id))
    new.runner.adopt_or_reset_orphaned_tasks()
    look(new)
    look(new)
    assert cancels(bridge) == [CancelJob(job_id=jobs["unwanted"], unless_started=True)]
    take_back(bridge, jobs["unwanted"])
    look(new)
    assert cancels(bridge) == []
    assert new.executor.running == {task_instance("wanted").key}


def test_a_database_that_does_not_answer_is_asked_again_later(
    bridge: TwinBridge,
    make_scheduler: MakeScheduler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def away(**_: object) -> None:
        raise OperationalError("select", {}, Exception("the server is restarting"))

    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    set_task(state=TaskInstanceState.FAILED)
    with monkeypatch.context() as outage:
        outage.setattr(airflow_rows, "create_session", away)
        look(scheduler)
    assert "does not say which jobs it waits for" in caplog.text
    assert cancels(bridge) == []
    look(scheduler)
    assert [cancel.job_id for cancel in cancels(bridge)] == [job_id]


def test_jobs_that_start_soon_cost_no_query(
    bridge: TwinBridge, make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(job_events, "wanted_jobs", asked.append)
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    look(scheduler)
    bridge.started(submitted(scheduler, bridge))
    look(scheduler)
    look(scheduler)
    assert asked == []


# ---------------------------------------------------------------- callbacks


def late(**_: object) -> None:
    """Stand for a callback's code."""


def make_callback(**data: object) -> CallbackKey:
    """Have Airflow's scheduler find a callback of the run that a deadline has passed for."""
    with create_session() as session:
        run = session.scalars(select(DagRun)).one()
        callback = ExecutorCallback(SyncCallback(late), fetch_method=CallbackFetchMethod.IMPORT_PATH)
        callback.data = {**callback.data, "dag_run_id": str(run.id), "dag_id": run.dag_id, **data}
        callback.state = CallbackState.PENDING
        session.add(callback)
        session.flush()
        return CallbackKey(id=str(callback.id))


def callback_row(key: CallbackKey) -> tuple[str | None, str | None]:
    with create_session() as session:
        callback = session.get(Callback, UUID(key.id))
        assert callback is not None
        return callback.state, callback.output


def queue_callbacks(scheduler: Scheduler) -> None:
    with create_session() as session:
        scheduler.runner._enqueue_executor_callbacks(session)
    scheduler.executor.heartbeat()


def callback_job(bridge: TwinBridge) -> Submit:
    while (submit := bridge.expect(Submit)).job.type is not WorkloadType.CALLBACK:
        pass
    return submit


@pytest.mark.parametrize(
    ("data", "setting", "queues", "expected"),
    [
        ({"queue": "own"}, "ops", ["press"], "own"),
        ({"queue": None}, "ops", ["press"], "ops"),
        ({"queue": ""}, "", ["press", "lab", "press"], "press"),
        ({}, "", ["press", "lab"], "lab"),
        ({}, "", ["", ""], "default"),
        ({"dag_run_id": "1"}, "", ["press"], "press"),
    ],
)
def test_a_callback_goes_where_it_says_or_the_setting_or_where_its_run_s_tasks_go(
    request: pytest.FixtureRequest, data: dict[str, object], setting: str, queues: list[str], expected: str
) -> None:
    request.getfixturevalue("monkeypatch").setenv("AIRFLOW__EDGE_MQTT__CALLBACK_QUEUE", setting)
    bridge, make_scheduler = (request.getfixturevalue(name) for name in ("bridge", "make_scheduler"))
    make_run(*({"task_id": f"t{number}", "queue": queue} for number, queue in enumerate(queues)))
    make_callback(**data)
    queue_callbacks(make_scheduler())
    assert callback_job(bridge).job.queue == expected


def test_queues_of_tasks_of_another_executor_say_nothing_about_a_callback_s(
    bridge: TwinBridge, make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", f"LocalExecutor,{CLASS_PATH}")
    make_run(
        {"task_id": "a", "queue": "local"},
        {"task_id": "b", "queue": "local"},
        {"task_id": "c", "queue": "press", "executor": "EdgeMqttExecutor"},
    )
    make_callback()
    scheduler = make_scheduler()
    assert not scheduler.executor.is_default
    queue_callbacks(scheduler)
    assert callback_job(bridge).job.queue == "press"


def test_a_callback_that_no_worker_takes_fails_visibly(
    bridge: TwinBridge, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    make_run({"task_id": "t", "queue": "press"})
    key = make_callback()
    scheduler = make_scheduler()
    queue_callbacks(scheduler)
    look(scheduler)
    assert callback_row(key) == (CallbackState.QUEUED, None)
    scheduler.executor.ahead_s += TIMEOUT_S
    look(scheduler)
    state, output = callback_row(key)
    assert state == CallbackState.FAILED
    assert output is not None
    assert output.startswith(
        "no worker took the callback from queue 'press' within 700 s ([scheduler] task_queued_timeo"
    )
    assert f"callback {key} has failed: no worker took" in caplog.text
    assert cancels(bridge) == [CancelJob(job_id=JobId(key.id))]
    assert key not in scheduler.executor.running


def test_a_callback_that_runs_has_all_the_time_it_needs(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    key = make_callback()
    scheduler = make_scheduler()
    queue_callbacks(scheduler)
    bridge.started(JobId(key.id))
    look(scheduler)
    scheduler.executor.ahead_s += TIMEOUT_S
    look(scheduler)
    assert callback_row(key) == (CallbackState.RUNNING, None)
    assert cancels(bridge) == []


def test_a_callback_that_a_dead_scheduler_left_waiting_fails_through_the_next_one(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    key = make_callback()
    old = make_scheduler()
    queue_callbacks(old)
    old.die()
    new = make_scheduler()
    bridge.wait_for_executor()
    bridge.tell(JobAccepted(job_id=JobId(key.id)))
    new.executor.sync()
    look(new)
    assert key in new.executor.running
    new.executor.ahead_s += TIMEOUT_S
    look(new)
    state, output = callback_row(key)
    assert state == CallbackState.FAILED
    assert output is not None
    assert output.startswith("no worker took the callback from its queue within 700 s")


def test_a_callback_whose_run_was_deleted_is_taken_back(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    key = make_callback()
    scheduler = make_scheduler()
    queue_callbacks(scheduler)
    with create_session() as session:
        session.execute(delete(Callback))
    look(scheduler)
    assert cancels(bridge) == [CancelJob(job_id=JobId(key.id), unless_started=True)]
