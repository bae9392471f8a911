"""Schedulers die, and others take over what they had queued; bridges forget, and Airflow learns it."""

from __future__ import annotations

import time
from dataclasses import replace
from uuid import UUID

import pytest
from airflow.executors.workloads.callback import CallbackFetchMethod
from airflow.models.callback import Callback, ExecutorCallback
from airflow.sdk.definitions.callback import SyncCallback
from airflow.utils.session import create_session
from airflow.utils.state import CallbackState, TaskInstanceState

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    TAKEN,
    AdoptRequest,
    CancelJob,
    JobFinished,
    Outcome,
    Submit,
    WorkloadType,
)
from edge_mqtt.executor import edge_mqtt_executor
from tests.support.fake_bridge import PATIENCE_S, TwinBridge, new_job_id
from tests.support.scenario_executor import (
    MakeScheduler,
    acks,
    make_run,
    set_task,
    submitted,
    task_instance,
)

pytestmark = pytest.mark.usefixtures("database")


def test_a_new_scheduler_adopts_what_the_bridge_knows_and_gives_back_the_rest(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "known"}, {"task_id": "lost"})
    old = make_scheduler()
    old.loop()
    jobs = {submit.job.task_id: submit.job.job_id for submit in (bridge.expect(Submit), bridge.expect(Submit))}
    del bridge.states[jobs["lost"]]
    # It was under way, so it cannot be submitted again.
    set_task("lost", state=TaskInstanceState.RUNNING)
    old.die()
    new = make_scheduler()
    new.runner.adopt_or_reset_orphaned_tasks()
    assert task_instance("known").queued_by_job_id == new.job.id
    assert task_instance("known").external_executor_id == jobs["known"]
    assert new.executor.running == {task_instance("known").key}
    assert task_instance("lost").state is None
    bridge.finished(jobs["known"], Outcome.FAILED, "exit code 1")
    new.executor.heartbeat()
    new.process_events()
    assert task_instance("known").state == TaskInstanceState.FAILED


def test_an_end_that_came_before_the_adoption_is_kept_for_it(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    old = make_scheduler()
    job_id = submitted(old, bridge)
    old.die()
    new = make_scheduler()
    bridge.wait_for_executor()
    bridge.finished(job_id, Outcome.LOST, "its worker went away")
    new.executor.heartbeat()
    assert job_id not in acks(bridge)
    new.runner.adopt_or_reset_orphaned_tasks()
    new.process_events()
    assert task_instance().state == TaskInstanceState.FAILED
    new.executor.heartbeat()
    assert job_id in acks(bridge)


def test_an_end_that_nobody_adopts_is_acknowledged_after_a_while(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    job_id = new_job_id()
    bridge.finished(job_id)
    scheduler.executor.heartbeat()
    scheduler.executor.ahead_s += 600
    scheduler.executor.heartbeat()
    assert acks(bridge) == []
    scheduler.executor.ahead_s += 60
    scheduler.executor.heartbeat()
    assert acks(bridge) == [job_id]


def test_everything_is_adopted_while_the_bridge_is_away_and_unknown_jobs_fail_later(
    bridge: TwinBridge, make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_mqtt_executor, "ADOPT_TIMEOUT_S", 0.05)
    make_run({"task_id": "known"}, {"task_id": "lost"})
    old = make_scheduler()
    old.loop()
    jobs = {submit.job.task_id: submit.job.job_id for submit in (bridge.expect(Submit), bridge.expect(Submit))}
    del bridge.states[jobs["lost"]]
    set_task("lost", state=TaskInstanceState.RUNNING)
    old.die()
    bridge.broker.stop()
    new = make_scheduler()
    new.runner.adopt_or_reset_orphaned_tasks()
    assert len(new.executor.running) == 2
    assert task_instance("lost").state == TaskInstanceState.RUNNING
    bridge.broker.start()
    deadline = time.monotonic() + PATIENCE_S
    while task_instance("lost").state == TaskInstanceState.RUNNING:
        assert time.monotonic() < deadline
        new.executor.heartbeat()
        new.process_events()
    assert task_instance("lost").state == TaskInstanceState.FAILED
    assert task_instance("known").state == TaskInstanceState.QUEUED
    assert new.executor.running == {task_instance("known").key}


def test_a_job_that_never_arrived_is_submitted_by_the_next_scheduler_and_costs_no_try(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    old = make_scheduler()
    bridge.wait_for_executor()
    bridge.broker.stop()
    old.loop()
    before = task_instance()
    old.die()
    bridge.broker.start()
    new = make_scheduler()
    bridge.wait_for_executor()
    new.runner.adopt_or_reset_orphaned_tasks()
    submit = bridge.expect(Submit)
    assert (submit.job.job_id, submit.job.task_id) == (before.external_executor_id, "t")
    assert submit.job.log_path is not None
    assert submit.token.count(".") == 2
    after = task_instance()
    assert (after.id, after.state, after.try_number) == (before.id, TaskInstanceState.QUEUED, before.try_number)
    assert (after.external_executor_id, after.queued_by_job_id) == (before.external_executor_id, new.job.id)
    assert new.executor.running == {after.key}
    bridge.finished(submit.job.job_id, Outcome.FAILED, "exit code 1")
    new.executor.heartbeat()
    new.process_events()
    assert task_instance().state == TaskInstanceState.FAILED


def test_scheduler_and_bridge_that_come_back_together_lose_no_try_either(
    bridge: TwinBridge, make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_mqtt_executor, "ADOPT_TIMEOUT_S", 0.05)
    make_run({"task_id": "t"})
    bridge.broker.stop()
    old = make_scheduler()
    old.loop()
    old.die()
    new = make_scheduler()
    new.runner.adopt_or_reset_orphaned_tasks()
    bridge.broker.start()
    job_id = bridge.expect(Submit).job.job_id
    assert job_id == task_instance().external_executor_id
    bridge.expect(AdoptRequest)
    new.executor.heartbeat()
    assert new.executor.event_buffer == {}
    assert new.executor.running == {task_instance().key}


def test_a_bridge_that_cannot_take_jobs_just_now_costs_a_queued_task_of_a_dead_scheduler_no_try(
    bridge: TwinBridge, make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_mqtt_executor, "ADOPT_TIMEOUT_S", 0.05)
    make_run({"task_id": "t"})
    bridge.accepts = False
    old = make_scheduler()
    job_id = submitted(old, bridge)
    old.die()
    new = make_scheduler()
    bridge.wait_for_executor()
    new.runner.adopt_or_reset_orphaned_tasks()
    before = task_instance()
    assert (before.state, before.external_executor_id) == (TaskInstanceState.QUEUED, job_id)
    bridge.accepts = True
    bridge.reconnect()
    assert bridge.expect(Submit).job.job_id == job_id
    assert bridge.expect(AdoptRequest).job_ids == (job_id,)
    new.executor.heartbeat()
    assert new.executor.event_buffer == {}
    assert new.executor.running == {before.key}
    after = task_instance()
    assert (after.id, after.try_number, after.queued_by_job_id) == (before.id, before.try_number, new.job.id)


def test_a_job_that_is_given_back_is_never_submitted_again(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    old = make_scheduler()
    bridge.wait_for_executor()
    bridge.broker.stop()
    old.loop()
    job_id = JobId(task_instance().external_executor_id or "")
    old.die()
    # A third scheduler asked about it, and died before it could say so to Airflow.
    bridge.denied.add(job_id)
    bridge.broker.start()
    new = make_scheduler()
    bridge.wait_for_executor()
    new.runner.adopt_or_reset_orphaned_tasks()
    assert (task_instance().state, task_instance().external_executor_id) == (None, None)
    new.executor.heartbeat()
    assert (new.executor.running, new.executor.event_buffer) == (set(), {})
    assert job_id in acks(bridge)
    # A bridge that was restarted does not remember what it would not take.
    bridge.denied.clear()
    bridge.reconnect()
    second = submitted(new, bridge)
    assert second != job_id
    assert bridge.states == {second: "queued"}


def test_a_task_too_large_for_the_present_limit_is_not_submitted_by_the_next_scheduler(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    bridge.broker.stop()
    old = make_scheduler()
    old.loop()
    old.die()
    bridge.broker.start()
    new = make_scheduler()
    _, settings = new.executor._started()
    new.executor._settings = replace(settings, max_message_bytes=100)
    new.runner.adopt_or_reset_orphaned_tasks()
    assert task_instance().state is None
    new.loop()
    assert not [message for message in bridge.hear_everything() if isinstance(message, Submit)]
    assert task_instance().state == TaskInstanceState.FAILED


def test_a_job_that_the_bridge_has_forgotten_fails_its_task_with_the_reason(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "kept"}, {"task_id": "forgotten"})
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    scheduler.loop()
    jobs = {submit.job.task_id: submit.job.job_id for submit in (bridge.expect(Submit), bridge.expect(Submit))}
    set_task("forgotten", state=TaskInstanceState.RUNNING)
    del bridge.states[jobs["forgotten"]]
    bridge.reconnect()
    deadline = time.monotonic() + PATIENCE_S
    while not scheduler.executor.event_buffer:
        assert time.monotonic() < deadline
        scheduler.executor.heartbeat()
    assert scheduler.executor.event_buffer == {
        task_instance("forgotten").key: (
            TaskInstanceState.FAILED,
            "the edge bridge no longer knows this job: was its ledger restored from a backup, or begun anew?",
        )
    }
    scheduler.process_events()
    assert task_instance("forgotten").state == TaskInstanceState.FAILED
    assert task_instance("kept").state == TaskInstanceState.QUEUED
    assert scheduler.executor.running == {task_instance("kept").key}


def test_a_job_that_another_scheduler_took_over_is_let_go_without_a_word_to_airflow(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    job_id = submitted(scheduler, bridge)
    bridge.states[job_id] = TAKEN
    bridge.reconnect()
    deadline = time.monotonic() + PATIENCE_S
    while scheduler.executor.running:
        assert time.monotonic() < deadline
        scheduler.executor.heartbeat()
    assert scheduler.executor.event_buffer == {}
    scheduler.executor.heartbeat()
    assert not [message for message in bridge.hear_everything() if isinstance(message, CancelJob)]


def test_a_job_that_another_scheduler_revoked_is_let_go_without_a_word_to_airflow(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    bridge.tell(JobFinished(job_id=job_id, outcome=Outcome.CANCELLED, detail="revoked by Airflow", revoked=True))
    scheduler.executor.heartbeat()
    assert scheduler.executor.running == set()
    assert scheduler.executor.event_buffer == {}
    assert acks(bridge) == [job_id]
    scheduler.process_events()
    assert task_instance().state == TaskInstanceState.QUEUED, "it is the other scheduler's now"


def test_a_revocation_of_a_job_that_nobody_here_knows_is_acknowledged_at_once(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    job_id = new_job_id()
    bridge.tell(JobFinished(job_id=job_id, outcome=Outcome.CANCELLED, revoked=True))
    scheduler.executor.heartbeat()
    assert acks(bridge) == [job_id]


def on_deadline() -> None:
    """Stand for a callback's code."""


@pytest.mark.parametrize(
    ("outcome", "state"), [(Outcome.SUCCESS, CallbackState.SUCCESS), (Outcome.LOST, CallbackState.FAILED)]
)
def test_the_end_of_a_dead_scheduler_s_callback_reaches_airflow_through_the_next_one(
    bridge: TwinBridge, make_scheduler: MakeScheduler, outcome: Outcome, state: CallbackState
) -> None:
    with create_session() as session:
        callback = ExecutorCallback(SyncCallback(on_deadline), fetch_method=CallbackFetchMethod.IMPORT_PATH)
        callback.state = CallbackState.RUNNING
        session.add(callback)
        session.flush()
        callback_id = str(callback.id)
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    event = JobFinished(job_id=JobId(callback_id), type=WorkloadType.CALLBACK, outcome=outcome, detail="why")
    bridge.tell(event)
    scheduler.executor.heartbeat()
    scheduler.process_events()
    with create_session() as session:
        found = session.get(Callback, UUID(callback_id))
        assert found is not None
        assert found.state == state
    scheduler.executor.heartbeat()
    assert acks(bridge) == [callback_id]
    bridge.tell(event)
    scheduler.executor.heartbeat()
    assert scheduler.executor.event_buffer == {}


def test_a_task_without_a_job_is_given_back_without_asking_the_bridge(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    ti = task_instance()
    bridge.broker.stop()
    began = time.monotonic()
    assert list(scheduler.executor.try_adopt_task_instances([ti])) == [ti]
    assert time.monotonic() - began < 1


def test_an_end_acknowledged_before_a_late_adoption_is_told_again_and_taken(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    old = make_scheduler()
    job_id = submitted(old, bridge)
    old.die()
    new = make_scheduler()
    bridge.wait_for_executor()
    bridge.finished(job_id, Outcome.FAILED, "exit code 1")
    new.executor.heartbeat()
    new.executor.ahead_s += 3600
    new.executor.heartbeat()
    assert acks(bridge) == [job_id]
    new.runner.adopt_or_reset_orphaned_tasks()
    bridge.finished(job_id, Outcome.FAILED, "exit code 1")
    new.executor.heartbeat()
    new.process_events()
    assert task_instance().state == TaskInstanceState.FAILED
