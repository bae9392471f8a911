"""The end of a job that Airflow or the bridge hears of when its task waits to go on: it is not the task's end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.quickstart.errors import RestFailed
from deploy.quickstart.stack import Stack
from tests.support.outage_systems import FAR, System, ordinary
from tests.support.run_checks import assert_logs_equal, final_events
from tests.support.scenario_held_task import POOL, POOLED_DAG, TASK, HeldTask, Watch

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(240), ordinary]


def give_slots(stack: Stack, slots: int) -> None:
    """Give the task's pool so many slots."""
    body = {"name": POOL, "slots": slots, "description": "", "include_deferred": False}
    stack.rest("PATCH", f"/pools/{POOL}", body)


@pytest.fixture
def pooled(stack: Stack) -> Iterator[Stack]:
    """The running stack with a pool; it has slots again afterwards."""
    try:
        stack.rest("POST", "/pools", {"name": POOL, "slots": 8})
    except RestFailed:
        give_slots(stack, 8)
    yield stack
    give_slots(stack, 8)


def mismatches(stack: Stack, run_id: str) -> list[str]:
    """Return what Airflow's audit log says of ends of this run's tasks that it did not expect."""
    params = {"event": "state mismatch", "run_id": run_id}
    return [entry["extra"] for entry in stack.rest("GET", "/eventLogs", params=params)["event_logs"]]


@pytest.mark.parametrize("cut", ["scheduler's link", "worker's link"])
@pytest.mark.parametrize(("what", "tries"), [("defer", 1), ("reschedule", 1), ("fail", 2)])
def test_job_s_end_that_comes_when_its_task_waits_to_go_on_is_not_the_task_s_end(
    pooled: Stack, system: System, tmp_path: Path, *, what: str, tries: int, cut: str
) -> None:
    stack, far_link, executors_link = pooled, system.far_link, system.executors_link
    held = HeldTask(stack, tmp_path, dag_id=POOLED_DAG, lingers=True)
    bridge, scheduler, worker = Watch(stack, "bridge"), Watch(stack, "scheduler"), Watch(stack, f"worker-{FAR}")
    give_slots(stack, 0)
    held.ask(what)
    stack.wait_until(lambda: held.instance()["state"] == "scheduled", "it to wait for a slot")
    assert not bridge.lines("job finished")
    if cut == "worker's link":
        far_link.cut()
        worker.await_line("connection lost")
        held.leave()
        worker.await_line("job_finished")
    else:
        executors_link.cut()
        scheduler.await_line("lost the connection to the bridge")
        held.leave()
        bridge.await_line("job finished")
    assert held.instance()["state"] == "scheduled"
    far_link.restore()
    executors_link.restore()
    scheduler.await_line("is let go: its task has told Airflow that it is", timeout_s=90)
    assert held.instance()["state"] == "scheduled"
    assert final_events(stack, held.run_id, TASK) == {}
    give_slots(stack, 8)
    held.release()
    assert stack.wait_run(POOLED_DAG, held.run_id) == "success"
    assert held.instance()["try_number"] == tries
    stack.wait_until(lambda: bool(final_events(stack, held.run_id, TASK)), "the final event")
    assert final_events(stack, held.run_id, TASK) == {(-1, tries): 1}
    assert mismatches(stack, held.run_id) == []
    assert assert_logs_equal(stack, POOLED_DAG, held.run_id) == tries
