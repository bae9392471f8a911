"""The executor under Airflow's real scheduler code and a real metadata database, with a twin for the bridge."""

from __future__ import annotations

import gc
import logging
import os
import tempfile
import time
import weakref
from pathlib import Path

# Before Airflow's first import, which reads it. Whoever set it already may keep it: the database is our own below.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import pytest
from airflow.exceptions import AirflowConfigException
from airflow.executors import executor_loader
from airflow.executors.executor_utils import ExecutorName as AirflowExecutorName
from airflow.executors.local_executor import LocalExecutor
from airflow.executors.workloads import BundleInfo, ExecuteCallback, ExecuteTask
from airflow.executors.workloads import TestConnection as ConnectionTest
from airflow.jobs import scheduler_job_runner
from airflow.models.callback import CallbackKey
from airflow.models.connection_test import ConnectionTestKey
from airflow.models.taskinstance import TaskInstance
from airflow.utils.log import file_task_handler
from airflow.utils.log.file_task_handler import FileTaskHandler
from airflow.utils.session import create_session
from airflow.utils.state import CallbackState, TaskInstanceState
from sqlalchemy import select
from sqlalchemy.orm import Session

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    CancelJob,
    JobFinished,
    Outcome,
    Submit,
    WorkloadType,
)
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.executor import EdgeMqttExecutor
from edge_mqtt.executor.job_index import REOFFER_FOR_S
from tests.support.fake_bridge import ME, PATIENCE_S, TwinBridge, new_job_id
from tests.support.scenario_executor import (
    CLASS_PATH,
    RUN_ID,
    START,
    MakeScheduler,
    TwinExecutor,
    acks,
    make_run,
    set_task,
    submitted,
    task_instance,
)

pytestmark = pytest.mark.usefixtures("database")


# ---------------------------------------------------------------- submitting


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


# ---------------------------------------------------------------- events


def test_a_start_does_not_touch_the_id_of_a_later_job_that_another_scheduler_has_queued(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    first = submitted(scheduler, bridge)
    # The task has run and deferred, and has been queued again by somebody else, when this one hears of its start.
    second = new_job_id()
    set_task(external_executor_id=second, queued_by_job_id=None)
    bridge.started(first)
    scheduler.loop()
    assert (task_instance().state, task_instance().external_executor_id) == (TaskInstanceState.QUEUED, second)


def test_the_end_of_a_task_that_reported_itself_frees_its_slot(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    set_task(state=TaskInstanceState.SUCCESS)
    bridge.finished(job_id)
    scheduler.loop()
    assert scheduler.executor.running == set()
    assert task_instance().state == TaskInstanceState.SUCCESS


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.LOST, Outcome.CANCELLED])
def test_a_job_that_did_not_succeed_fails_its_task_with_the_reason(
    bridge: TwinBridge, make_scheduler: MakeScheduler, outcome: Outcome
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    bridge.finished(job_id, outcome, "killed by SIGKILL (likely out of memory)")
    scheduler.executor.sync()
    state, info = scheduler.executor.event_buffer[task_instance().key]
    assert (state, info) == (TaskInstanceState.FAILED, "killed by SIGKILL (likely out of memory)")
    scheduler.process_events()
    assert task_instance().state == TaskInstanceState.FAILED
    lost_noted = [entry.event for entry in scheduler.executor._task_event_logs]
    assert lost_noted == (["edge job lost"] if outcome is Outcome.LOST else [])


def test_the_bridge_is_told_only_after_airflow_has_committed(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    bridge.finished(job_id, Outcome.FAILED, "exit code 1")
    scheduler.executor.heartbeat()
    assert acks(bridge) == []
    scheduler.process_events()
    assert acks(bridge) == [], "the transaction may yet fail"
    scheduler.executor.heartbeat()
    assert acks(bridge) == [job_id]


def test_an_event_whose_transaction_failed_is_never_acknowledged(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    bridge.finished(job_id, Outcome.FAILED, "exit code 1")
    scheduler.executor.heartbeat()
    scheduler.executor.get_event_buffer()
    scheduler.executor.end()
    assert job_id not in acks(bridge)


def test_an_event_for_a_locked_row_is_offered_again_and_has_its_effect_once(
    bridge: TwinBridge, make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    bridge.finished(job_id, Outcome.FAILED, "exit code 1")
    # What SELECT ... FOR UPDATE SKIP LOCKED gives when another transaction holds the row; SQLite has no such locks.
    with monkeypatch.context() as locked:
        locked.setattr(scheduler_job_runner, "with_row_locks", lambda query, **_: query.where(False))
        scheduler.executor.heartbeat()
        scheduler.process_events()
        scheduler.executor.heartbeat()
        scheduler.process_events()
    assert task_instance().state == TaskInstanceState.QUEUED
    assert acks(bridge) == []
    assert scheduler.executor.event_buffer == {}, "it waits, so that the scheduler does not spin"
    scheduler.executor.ahead_s += 1.5
    scheduler.executor.heartbeat()
    scheduler.process_events()
    assert task_instance().state == TaskInstanceState.FAILED
    scheduler.executor.heartbeat()
    assert acks(bridge) == [job_id]
    assert scheduler.executor.event_buffer == {}


def test_an_event_for_a_task_instance_that_is_gone_is_given_up_after_a_while(
    bridge: TwinBridge, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    with create_session() as session:
        session.delete(session.scalars(select(TaskInstance)).one())
    bridge.finished(job_id)
    offers = 0
    while job_id not in acks(bridge):
        scheduler.executor.sync()
        offers += len(scheduler.executor.event_buffer)
        scheduler.process_events()
        scheduler.executor.ahead_s += 1.0
        assert scheduler.executor.ahead_s < 3 * REOFFER_FOR_S
    assert 3 < offers < 10
    assert "its task instance is gone" in caplog.text


def test_a_late_end_of_the_job_before_a_deferral_does_not_touch_the_job_after_it(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    first = submitted(scheduler, bridge)
    bridge.started(first)
    scheduler.loop()
    # The task deferred itself and its trigger fired before its process ended: the same try is queued again.
    set_task(state=TaskInstanceState.SCHEDULED, next_method="execute_complete", scheduled_dttm=START)
    second = submitted(scheduler, bridge)
    assert second != first
    bridge.finished(first)
    bridge.started(first)
    scheduler.loop()
    ti = task_instance()
    assert (ti.state, ti.external_executor_id) == (TaskInstanceState.QUEUED, second)
    assert scheduler.executor.running == {ti.key}
    assert first in acks(bridge)
    bridge.finished(second, Outcome.FAILED, "exit code 1")
    scheduler.loop()
    assert task_instance().state == TaskInstanceState.FAILED


def test_a_job_that_the_scheduler_gives_up_is_cancelled(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    # What the scheduler does to a task without heartbeats.
    scheduler.executor.change_state(task_instance().key, TaskInstanceState.FAILED, remove_running=True)
    scheduler.executor.heartbeat()
    assert bridge.expect(CancelJob).job_id == job_id


def test_revoking_cancels_and_forgets_and_tells_airflow_nothing(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    ti = task_instance()
    scheduler.executor.revoke_task(ti=ti)
    assert bridge.expect(CancelJob).job_id == job_id
    assert not scheduler.executor.has_task(ti)
    bridge.finished(job_id, Outcome.CANCELLED)
    scheduler.executor.sync()
    assert scheduler.executor.event_buffer == {}
    assert job_id in acks(bridge)


def test_a_task_stuck_in_queued_is_revoked_and_submitted_again_as_another_job(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    first = submitted(scheduler, bridge)
    set_task(queued_dttm=START)
    scheduler.runner._handle_tasks_stuck_in_queued()
    assert bridge.expect(CancelJob).job_id == first
    assert submitted(scheduler, bridge) != first


def test_revoking_never_raises(broker: MemoryBroker, bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    submitted(scheduler, bridge)
    TwinExecutor(broker).revoke_task(ti=task_instance())
    bridge.broker.stop()
    scheduler.executor.revoke_task(ti=task_instance())
    scheduler.executor.revoke_task(ti=task_instance())


# ---------------------------------------------------------------- other workloads


def test_a_callback_goes_through_its_states(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler()
    callback_id = new_job_id()
    workload = ExecuteCallback(
        token="a.b.c",
        dag_rel_path=Path("d.py"),
        bundle_info=BundleInfo(name="bundle"),
        log_path="executor_callbacks/a",
        callback={
            "id": callback_id,
            "fetch_method": "import_path",
            "data": {"path": "m.f", "kwargs": {}, "dag_id": "a-dag"},
        },
    )
    scheduler.executor.queue_workload(workload, session=Session())
    scheduler.executor.heartbeat()
    submit = bridge.expect(Submit)
    assert (submit.job.job_id, submit.job.type, submit.job.queue) == (callback_id, WorkloadType.CALLBACK, "default")
    assert (submit.job.dag_id, submit.token) == ("a-dag", "a.b.c")
    key = CallbackKey(id=callback_id)
    bridge.started(callback_id)
    scheduler.executor.sync()
    assert scheduler.executor.get_event_buffer()[key][0] == CallbackState.RUNNING
    bridge.finished(callback_id, Outcome.FAILED, "exit code 1")
    scheduler.executor.sync()
    assert scheduler.executor.get_event_buffer() == {key: (CallbackState.FAILED, "exit code 1")}
    assert scheduler.executor.running == set()


def a_callback(callback_id: JobId, text: str) -> ExecuteCallback:
    """Return a callback's workload with a text of any size."""
    data = {"path": "m.f", "kwargs": {"text": text}, "dag_id": "a-dag"}
    return ExecuteCallback(
        token="a.b.c",
        dag_rel_path=Path("d.py"),
        bundle_info=BundleInfo(name="bundle"),
        log_path="executor_callbacks/a",
        callback={"id": callback_id, "fetch_method": "import_path", "data": data},
    )


def test_a_workload_over_the_limit_fails_with_the_reason_and_nothing_else_suffers(
    bridge: TwinBridge,
    make_scheduler: MakeScheduler,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_MQTT__MAX_MESSAGE_SIZE", str(1024 * 1024))
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    large, small = new_job_id(), new_job_id()
    scheduler.executor.queue_workload(a_callback(large, "x" * 1024 * 1024), session=Session())
    scheduler.executor.queue_workload(a_callback(small, "x"), session=Session())
    scheduler.executor.heartbeat()
    assert bridge.expect(Submit).job.job_id == small
    state, info = scheduler.executor.get_event_buffer()[CallbackKey(id=large)]
    assert state == CallbackState.FAILED
    assert "bytes is over the limit of 1048576 bytes ([edge_mqtt] max_message_size)" in str(info)
    assert f"job {large} is not submitted: the workload of" in caplog.text
    assert scheduler.executor.running == {CallbackKey(id=small)}
    bridge.finished(small)
    scheduler.executor.sync()
    assert scheduler.executor.get_event_buffer()[CallbackKey(id=small)][0] == CallbackState.SUCCESS


def test_a_connection_test_is_submitted_and_its_event_is_not_offered_twice(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler()
    job_id = new_job_id()
    workload = ConnectionTest(token="a.b.c", connection_test_id=job_id, connection_id="db", timeout=10, queue="press")
    scheduler.executor.queue_workload(workload, session=Session())
    scheduler.executor.heartbeat()
    submit = bridge.expect(Submit)
    assert (submit.job.type, submit.job.queue) == (WorkloadType.CONNECTION_TEST, "press")
    assert scheduler.executor.running == {ConnectionTestKey(id=job_id)}
    bridge.finished(job_id)
    scheduler.executor.heartbeat()
    scheduler.process_events()
    scheduler.executor.heartbeat()
    assert scheduler.executor.event_buffer == {}
    assert acks(bridge) == [job_id]


def test_an_overdue_connection_test_is_cancelled(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    scheduler = make_scheduler()
    job_id = new_job_id()
    workload = ConnectionTest(token="a.b.c", connection_test_id=job_id, connection_id="db", timeout=10)
    scheduler.executor.queue_workload(workload, session=Session())
    scheduler.executor.heartbeat()
    scheduler.executor.fail_connection_test(ConnectionTestKey(id=job_id))
    scheduler.executor.heartbeat()
    assert bridge.expect(CancelJob).job_id == job_id


# ---------------------------------------------------------------- life and logs


def test_a_shutdown_waits_until_the_bridge_has_what_was_submitted(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    scheduler.loop()
    scheduler.executor.end()
    assert bridge.expect(Submit).job.job_id in bridge.states


def test_a_shutdown_without_the_bridge_says_that_something_is_left(
    bridge: TwinBridge, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    make_run({"task_id": "t"})
    bridge.broker.stop()
    scheduler = make_scheduler()
    scheduler.loop()
    scheduler.executor.end()
    assert "shutting down before the bridge has everything" in caplog.text


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        (
            "BRIDGE_URL",
            "",
            "[edge_mqtt] bridge_url is not set: set it in airflow.cfg or as AIRFLOW__EDGE_MQTT",
        ),
        ("EXECUTOR_CERTS", "", "[edge_mqtt] executor_certs is not set"),
        ("KEEP_ALIVE", "soon", "[edge_mqtt] keep_alive is 'soon' (from AIRFLOW__EDGE_MQTT__KEEP_ALIVE): it must be"),
        ("TOPIC_PREFIX", "plant/7", "[edge_mqtt] topic_prefix is 'plant/7'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, line: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW__EDGE_MQTT__{variable}", value)
    with pytest.raises(AirflowConfigException) as raised:
        EdgeMqttExecutor().start()
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_a_missing_certificate_delays_jobs_and_is_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = EdgeMqttExecutor()
    said = logging.getLogger("edge_mqtt.executor.bridge_client")
    with caplog.at_level(logging.ERROR, logger=said.name):
        executor.start()
        deadline = time.monotonic() + PATIENCE_S
        while not caplog.messages:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    executor.terminate()
    (message,) = caplog.messages
    assert message.startswith("no connection to the bridge:")
    assert str(tmp_path / "certs") in message


def test_an_executor_of_a_team_uses_its_team_s_settings(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__TEAM_A___EDGE_MQTT__BRIDGE_URL", "wss://bridge-of-team-a.test/mqtt")
    monkeypatch.setenv("AIRFLOW__TEAM_A___EDGE_MQTT__EXECUTOR_CERTS", "/certs/team-a")
    scheduler = make_scheduler(team_name="team_a")
    assert scheduler.executor._settings is not None
    assert scheduler.executor._settings.bridge_url == "wss://bridge-of-team-a.test/mqtt"
    assert scheduler.executor._settings.certs == Path("/certs/team-a")


def test_an_executor_that_was_never_started_ends_quietly(broker: MemoryBroker) -> None:
    executor = TwinExecutor(broker)
    executor.sync()
    executor.end()
    executor.terminate()
    executor.debug_dump()
    with pytest.raises(RuntimeError, match="not started"):
        executor.try_adopt_task_instances([])


def test_the_debug_dump_shows_the_link(
    bridge: TwinBridge, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    with caplog.at_level(logging.INFO, logger="edge_mqtt.executor"):
        scheduler.executor.debug_dump()
    assert "connected=True" in caplog.text


# Airflow's own reader leaves the file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_running_task_s_log_is_read_from_the_folder_once_and_not_from_the_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_run({"task_id": "t"})
    set_task(state=TaskInstanceState.RUNNING, hostname="lab-3.example.com", try_number=1, executor=CLASS_PATH)
    asked = []
    monkeypatch.setattr(file_task_handler, "_fetch_logs_from_service", lambda url, _: asked.append(url))
    monkeypatch.setattr(FileTaskHandler, "executor_instances", {CLASS_PATH: EdgeMqttExecutor()})
    handler = FileTaskHandler(str(tmp_path / "logs"))
    ti = task_instance()
    path = tmp_path / "logs" / handler._render_filename(ti, 1)
    path.parent.mkdir(parents=True)
    path.write_text('{"timestamp":"2024-01-01T00:00:00Z","event":"a line of the task"}\n')
    stream, _ = handler.read(ti, 1)
    lines = [entry.event for entry in stream]
    assert lines.count("a line of the task") == 1
    assert any("live from edge worker lab-3.example.com" in line for line in lines)
    assert asked == []


def test_the_log_of_an_earlier_try_names_no_host(broker: MemoryBroker) -> None:
    make_run({"task_id": "t"})
    set_task(state=TaskInstanceState.RUNNING, hostname="lab-3", try_number=2)
    messages, lines = TwinExecutor(broker).get_task_log(task_instance(), 1)
    assert messages == ["Log received live from its edge worker by the edge bridge"]
    assert lines == []


def test_repeats_of_a_final_event_make_one_event(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    final = JobFinished(job_id=job_id, outcome=Outcome.FAILED, detail="exit code 1")
    bridge.tell(final)
    bridge.tell(final)
    scheduler.executor.heartbeat()
    bridge.broker.cut(ME.client_id)
    bridge.broker.restore(ME.client_id)
    bridge.tell(final)
    scheduler.executor.heartbeat()
    assert list(scheduler.executor.event_buffer) == [task_instance().key]
    scheduler.process_events()
    bridge.tell(final)
    scheduler.executor.heartbeat()
    assert scheduler.executor.event_buffer == {}


def test_an_audit_log_entry_lives_until_airflow_has_stored_it(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    bridge.finished(submitted(scheduler, bridge), Outcome.LOST, "out of reach")
    scheduler.executor.sync()
    # Airflow's scheduler pops the entries and hands them to SQLAlchemy, which keeps weak references.
    entry = weakref.ref(scheduler.executor._task_event_logs.popleft())
    gc.collect()
    assert entry() is not None
