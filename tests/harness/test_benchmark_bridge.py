"""The benchmark of the bridge, in small: real bridges, and every simulated party."""

from __future__ import annotations

from typing import Any

import pytest

from tests.benchmarks.bridge.certificates import Parties
from tests.benchmarks.bridge.session import RTT_S, Plan, run
from tests.benchmarks.bridge.summary import METRICS

PLAN = Plan(workers=(2, 12), rounds=1, jobs=8, outstanding=4, idle_s=0.1, storms=1)


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("bridges")
    found: dict[str, Any] = run(PLAN, Parties(folder), folder, (), print)
    return found


def test_bridges_in_turn_give_every_figure(figures: dict[str, Any]) -> None:
    assert list(figures) == ["2", "12"]
    assert [metric.title for metric in METRICS if metric.of(figures["12"]) is None] == []


def test_what_the_first_connections_cost_is_not_counted(figures: dict[str, Any]) -> None:
    assert {number: raw["connecting"]["connections"] for number, raw in figures.items()} == {"2": 0, "12": 2}


def test_a_job_on_the_long_link_waits_for_the_link_at_least(figures: dict[str, Any]) -> None:
    for raw in figures.values():
        (far,) = raw["far"]
        assert min(far["round_trip"]) >= RTT_S
        assert min(far["assigned"]) >= RTT_S / 2
        assert min(far["started"]) >= RTT_S * 3 / 2
        assert min(far["finished"]) >= RTT_S * 2


def test_moments_of_a_job_are_in_order(figures: dict[str, Any]) -> None:
    for raw in figures.values():
        for delays in (*raw["calm"], *raw["far"]):
            moments = zip(delays["assigned"], delays["started"], delays["finished"], strict=True)
            assert all(0 < assigned < started < finished for assigned, started, finished in moments)


def test_as_many_jobs_are_counted_as_asked_for(figures: dict[str, Any]) -> None:
    for raw in figures.values():
        (busy,) = raw["busy"]
        assert busy["jobs"] >= PLAN.jobs
