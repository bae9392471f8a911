"""Which calls mean something to the bridge, and what a repetition of one comes to."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.execution_api.endpoints import is_run, is_state
from tests.support.scenario_relay import call


@pytest.mark.parametrize(
    ("method", "target", "run", "state"),
    [
        ("PATCH", "task-instances/7/run", True, False),
        ("PATCH", "task-instances/7/state", False, True),
        # As Airflow's router takes it.
        ("PATCH", "task-instances/7/%72un", True, False),
        ("PATCH", "task%2Dinstances%2F7%2Fstate?x=y", False, True),
        ("PATCH", "task-instances/7/run?x=/state", True, False),
        ("PUT", "task-instances/7/run", False, False),
        ("PATCH", "variables/task-instances/7/run", False, False),
        ("PATCH", "/task-instances/7/run", False, False),
        ("PATCH", "task-instances/7/state/x", False, False),
    ],
)
def test_the_start_and_the_end_are_recognised_however_they_are_quoted(
    method: str, target: str, run: bool, state: bool
) -> None:
    request = call(method, target)
    assert (is_run(request), is_state(request)) == (run, state)
