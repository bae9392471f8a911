"""Jobs that Airflow's scheduler gives up or takes back."""

from __future__ import annotations

import pytest
from airflow.utils.state import TaskInstanceState

from edge_mqtt.broker_bridge.protocol.messages import CancelJob, Outcome
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from tests.support.fake_bridge import TwinBridge
from tests.support.scenario_executor import (
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
