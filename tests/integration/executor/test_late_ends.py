"""The end of a job that Airflow hears late, when its task has gone on: under Airflow's real scheduler code."""

from __future__ import annotations

import pytest
from airflow.models.log import Log
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from edge_mqtt.broker_bridge.protocol.messages import EventAck, JobFinished, Outcome
from tests.support.fake_bridge import TwinBridge
from tests.support.scenario_executor import (
    MakeScheduler,
    Scheduler,
    make_run,
    set_task,
    submitted,
    task_instance,
)

pytestmark = pytest.mark.usefixtures("database")

GOES_ON = ["deferred", "up_for_reschedule", "up_for_retry", "awaiting_input"]


def mismatches() -> list[str]:
    """Return what Airflow's audit log says of ends that it did not expect."""
    with create_session() as session:
        return [entry.extra or "" for entry in session.scalars(select(Log).where(Log.event == "state mismatch"))]


def hear_end(scheduler: Scheduler) -> None:
    scheduler.executor.heartbeat()
    scheduler.process_events()


@pytest.mark.parametrize("outcome", [Outcome.SUCCESS, Outcome.FAILED, Outcome.LOST, Outcome.CANCELLED])
@pytest.mark.parametrize("told", GOES_ON)
def test_late_end_of_a_job_whose_task_goes_on_does_nothing_to_the_task(
    bridge: TwinBridge, make_scheduler: MakeScheduler, told: str, outcome: Outcome
) -> None:
    make_run({"task_id": "t", "retries": 3})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    # It is due again, and waits for a slot of its pool.
    set_task(state=TaskInstanceState.SCHEDULED)
    bridge.finished(job_id, outcome, told=told)
    hear_end(scheduler)
    assert bridge.expect(EventAck).job_id == job_id
    assert mismatches() == []
    assert task_instance().state == TaskInstanceState.SCHEDULED
    assert scheduler.executor.running == set()
    scheduler.executor.heartbeat()
    assert bridge.hear_everything() == []


def test_a_task_that_goes_on_is_queued_again_as_another_job(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    first = submitted(scheduler, bridge)
    bridge.finished(first, told="up_for_reschedule")
    hear_end(scheduler)
    set_task(state=TaskInstanceState.SCHEDULED)
    second = submitted(scheduler, bridge)
    assert second != first
    set_task(state=TaskInstanceState.SUCCESS)
    bridge.finished(second, told="success")
    hear_end(scheduler)
    assert (mismatches(), task_instance().state) == ([], TaskInstanceState.SUCCESS)


@pytest.mark.parametrize("told", ["success", "failed", "skipped"])
def test_end_of_a_job_whose_task_is_over_is_an_event_for_airflow(
    bridge: TwinBridge, make_scheduler: MakeScheduler, told: str
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    set_task(state=TaskInstanceState(told))
    bridge.finished(job_id, told=told)
    scheduler.executor.heartbeat()
    assert scheduler.executor.event_buffer == {task_instance().key: (TaskInstanceState.SUCCESS, None)}


def test_process_that_ends_well_without_a_word_is_a_failure_with_the_reason(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t", "retries": 1})
    scheduler = make_scheduler()
    job_id = submitted(scheduler, bridge)
    set_task(state=TaskInstanceState.RUNNING)
    bridge.finished(job_id, told="")
    hear_end(scheduler)
    assert task_instance().state == TaskInstanceState.UP_FOR_RETRY
    assert any("the task has told Airflow no state" in text for text in mismatches())


def test_an_adopted_job_whose_task_goes_on_is_let_go_too(bridge: TwinBridge, make_scheduler: MakeScheduler) -> None:
    make_run({"task_id": "t"})
    first = make_scheduler()
    job_id = submitted(first, bridge)
    first.die()
    heir = make_scheduler()
    # Heard before anybody asks who takes the job over, and told again then.
    bridge.tell(JobFinished(job_id=job_id, outcome=Outcome.SUCCESS, told="deferred"))
    heir.executor.heartbeat()
    # The scheduler has read its row a moment before the task said that it goes on.
    set_task(state=TaskInstanceState.RUNNING)
    ti = task_instance()
    assert heir.executor.try_adopt_task_instances([ti]) == []
    assert heir.executor.running == set()
    assert heir.executor.event_buffer == {}
    heir.executor.heartbeat()
    assert bridge.expect(EventAck).job_id == job_id
