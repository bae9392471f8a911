"""What the bridge tells of jobs reaches Airflow's database once, and only then is it acknowledged."""

from __future__ import annotations

import gc
import weakref

import pytest
from airflow.jobs import scheduler_job_runner
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from edge_mqtt.broker_bridge.protocol.messages import JobFinished, Outcome
from edge_mqtt.executor.job_index import REOFFER_FOR_S
from tests.support.fake_bridge import ME, TwinBridge, new_job_id
from tests.support.scenario_executor import START, MakeScheduler, acks, make_run, set_task, submitted, task_instance

pytestmark = pytest.mark.usefixtures("database")


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
