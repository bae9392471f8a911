"""The plan of faults keeps its word."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.faults import (
    EXECUTORS_LINK,
    FROZEN_S,
    LONGEST_S,
    POSTGRES,
    SCHEDULERS,
    TRIGGERER,
    WORKERS,
    Fault,
    Kind,
    plan_faults,
)
from tests.chaos.harm import OUTAGE_S
from tests.chaos.site import BRIEF_GRACE_S, KEEP_ALIVE_S, KILL_GRACE_S, OFFLINE_GRACE_S, PRESENCE_INTERVAL_S

SEEDS = st.integers(0, 10**6)
#: What ``.ci/run`` asks for.
CI_SEED, CI_SECONDS = 7, 120.0
PARTS = {"bridge", "api-server", TRIGGERER, POSTGRES, *SCHEDULERS, *WORKERS}


def killed(faults: list[Fault]) -> set[str]:
    return {fault.target for fault in faults if fault.kind is Kind.KILL}


def test_the_same_seed_plans_the_same_faults_and_another_plans_others() -> None:
    assert plan_faults(7, 600.0) == plan_faults(7, 600.0)
    assert plan_faults(7, 600.0) != plan_faults(8, 600.0)


@settings(deadline=None)
@given(seed=SEEDS)
def test_no_place_is_disturbed_twice_at_once_and_everything_ends_in_time(seed: int) -> None:
    faults = plan_faults(seed, 300.0)
    assert all(before.at_s < after.at_s for before, after in pairwise(faults))
    assert all(fault.ends_s <= 300.0 for fault in faults)
    by_place: dict[tuple[bool, str], list[Fault]] = {}
    for fault in faults:
        if fault.target:
            by_place.setdefault(fault.place, []).append(fault)
    for some in by_place.values():
        assert all(before.ends_s <= after.at_s for before, after in pairwise(some))


@settings(deadline=None)
@given(seed=SEEDS)
def test_five_minutes_bring_every_kind_of_fault_and_kill_every_part(seed: int) -> None:
    faults = plan_faults(seed, 300.0)
    assert {fault.kind for fault in faults} == set(Kind)
    assert killed(faults) == PARTS


def test_ci_s_run_brings_every_kind_of_fault_on_both_sides_and_kills_every_part() -> None:
    faults = plan_faults(CI_SEED, CI_SECONDS)
    assert {fault.kind for fault in faults} == set(Kind)
    assert killed(faults) == PARTS
    links = {fault.target for fault in faults if fault.kind in {Kind.CUT, Kind.BLACKHOLE, Kind.HALF_OPEN, Kind.TEAR}}
    assert EXECUTORS_LINK in links
    assert links & set(WORKERS)


def test_faults_are_counted_by_their_sort() -> None:
    sorts = {fault.sort for fault in plan_faults(1, 600.0)}
    assert {"kill -9 of a worker", "kill -9 of the bridge", "kill -9 of a task", "freeze of the bridge"} <= sorts
    assert {"cut of a worker's link", "half-open of the executors' link", "reboot of a worker machine"} <= sorts


@pytest.mark.parametrize("longest_s", [LONGEST_S, FROZEN_S])
def test_two_of_the_longest_faults_in_a_row_are_far_shorter_than_the_grace(longest_s: float) -> None:
    assert 2 * (longest_s + 2 * KEEP_ALIVE_S) < OFFLINE_GRACE_S / 2


def test_an_outage_ends_a_brief_task_and_its_lease_but_no_other() -> None:
    lease_at_the_centre_s = BRIEF_GRACE_S + PRESENCE_INTERVAL_S + KILL_GRACE_S + 5.0
    assert lease_at_the_centre_s + PRESENCE_INTERVAL_S < OUTAGE_S
    assert OUTAGE_S < OFFLINE_GRACE_S / 2
