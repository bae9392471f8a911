"""Workloads that are no tasks: callbacks and connection tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.executors.workloads import BundleInfo, ExecuteCallback
from airflow.executors.workloads import TestConnection as ConnectionTest
from airflow.models.callback import CallbackKey
from airflow.models.connection_test import ConnectionTestKey
from airflow.utils.state import CallbackState
from sqlalchemy.orm import Session

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import CancelJob, Outcome, Submit, WorkloadType
from tests.support.fake_bridge import TwinBridge, new_job_id
from tests.support.scenario_executor import MakeScheduler, acks

pytestmark = pytest.mark.usefixtures("database")


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
