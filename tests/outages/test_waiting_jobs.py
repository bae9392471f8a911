"""Jobs that wait: in the scheduler for the bridge, at the bridge for a worker, in Airflow for a trigger."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.quickstart.stack import Stack, WorkerSpec
from tests.support.bad_link import BadLink
from tests.support.outage_systems import NOWHERE, hurried
from tests.support.run_checks import assert_logs_equal, final_events
from tests.support.scenario_held_task import DAG, NOWHERE_DAG, TASK, HeldTask, Watch

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(240), hurried]

LOST = "lost the connection to the bridge"


@pytest.mark.parametrize("silent", [False, True], ids=["cut", "silent"])
def test_scheduler_that_cannot_reach_the_bridge_submits_and_hears_everything_afterwards(
    stack: Stack, executors_link: BadLink, tmp_path: Path, *, silent: bool
) -> None:
    held = HeldTask(stack, tmp_path / "before")
    scheduler = Watch(stack, "scheduler")
    if silent:
        executors_link.blackhole()
    else:
        executors_link.cut()
    later = HeldTask(stack, tmp_path / "later", begins=False)
    # The task needs no scheduler: its calls go from the bridge to the api-server.
    held.push()
    held.await_trace("pushed")
    held.release()
    stack.wait_until(lambda: held.instance()["state"] == "success", "the task's own word that it has succeeded")
    scheduler.await_line(LOST)
    assert final_events(stack, held.run_id, TASK) == {}
    assert later.trace("pids") == []
    executors_link.restore()
    later.await_begun()
    for task in (held, later):
        task.assert_undisturbed()
        assert_logs_equal(stack, DAG, task.run_id)


def test_end_of_a_job_that_comes_after_its_deferred_task_was_queued_again_does_not_end_the_second_job(
    stack: Stack, executors_link: BadLink, tmp_path: Path
) -> None:
    held = HeldTask(stack, tmp_path)
    scheduler = Watch(stack, "scheduler")
    executors_link.cut()
    scheduler.await_line(LOST)
    first_job = held.instance()["id"], "queued"
    held.defer()
    # The same task instance and the same try, but another job.
    stack.wait_until(lambda: (held.instance()["id"], held.instance()["state"]) == first_job, "it to be queued again")
    assert held.trace("resumed") == []
    executors_link.restore()
    held.await_trace("resumed", timeout_s=90)
    # The bridge repeats the first job's end at once. The scheduler looks at it several times a second.
    held.await_beats(15)
    held.assert_undisturbed()
    assert len(held.trace("resumed")) == 1
    assert_logs_equal(stack, DAG, held.run_id)


def test_task_that_airflow_takes_back_because_no_worker_serves_its_queue_runs_once_when_one_does(
    stack: Stack, tmp_path: Path
) -> None:
    bridge = Watch(stack, "bridge")
    held = HeldTask(stack, tmp_path, dag_id=NOWHERE_DAG, begins=False)
    # The second is another job of the same try; the first was cancelled.
    bridge.await_line("job accepted", count=2, timeout_s=120)
    stack.add_worker(WorkerSpec(name="edge-3", queues=(NOWHERE,)))
    held.await_begun()
    held.assert_undisturbed()
    assert len(bridge.lines("job started")) == 1
    assert_logs_equal(stack, NOWHERE_DAG, held.run_id)
