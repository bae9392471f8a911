"""The data centre dies while tasks run on the edge, in part or altogether, and comes back."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from deploy.quickstart.stack import Stack
from tests.support.outage_systems import ordinary
from tests.support.run_checks import assert_logs_equal
from tests.support.scenario_held_task import DAG, HeldTask

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300), ordinary]


@pytest.mark.parametrize(
    "dead", [("api-server",), ("scheduler", "api-server", "bridge")], ids=["api-server", "everything"]
)
def test_tasks_go_on_while_the_centre_is_dead_and_their_calls_and_results_arrive_when_it_is_back(
    stack: Stack, tmp_path: Path, dead: tuple[str, ...]
) -> None:
    calling, ended, busy = (HeldTask(stack, tmp_path / name) for name in ("calling", "ended", "busy"))
    for name in dead:
        stack.kill(name, signal.SIGKILL)
    for name in dead:
        assert stack.services[name].wait(10)
    calling.push()
    ended.release()
    busy.await_beats(5)
    assert calling.trace("pushed") == []
    adopted = stack.log_of("scheduler").count("job adopted") + 3
    for name in dead:
        if name == "bridge":
            # A task whose end Airflow learns before its new scheduler takes over the old one's is adopted by nobody,
            # and no event of it is due.
            stack.wait_until(
                lambda: stack.log_of("scheduler").count("job adopted") >= adopted, "adoption", timeout_s=150
            )
        stack.restart(name, wait=False)
    for name in dead:
        stack.wait_until(stack.services[name].check, f"the {name} to be back", timeout_s=150)
    calling.await_trace("pushed", timeout_s=90)
    for task in (calling, ended, busy):
        task.assert_undisturbed()
        assert_logs_equal(stack, DAG, task.run_id)
    calling.assert_pushed_in_order()
