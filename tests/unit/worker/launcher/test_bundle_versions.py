"""When old versions of Dag bundles are looked for."""

from __future__ import annotations

import pytest

from edge_mqtt.worker.launcher.bundle_versions import FIRST_LOOK_S, CleanupTimer


def test_looks_come_at_airflow_s_interval_and_the_first_one_soon() -> None:
    now = 1000.0
    timer = CleanupTimer(1800.0, lambda: now)
    assert (timer.wait_s(), timer.is_due()) == (FIRST_LOOK_S, False)
    now += FIRST_LOOK_S
    assert (timer.wait_s(), timer.is_due()) == (0.0, True)
    assert (timer.wait_s(), timer.is_due()) == (1800.0, False)
    now += 2000.0
    assert (timer.wait_s(), timer.is_due()) == (0.0, True)


@pytest.mark.parametrize("interval_s", [0, -1])
def test_an_interval_of_nothing_means_never(interval_s: int) -> None:
    now = 0.0
    timer = CleanupTimer(interval_s, lambda: now)
    now += 10_000.0
    assert (timer.wait_s(), timer.is_due()) == (None, False)
