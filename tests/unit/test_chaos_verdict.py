"""The plan of faults keeps its word, and every check of the verdict can fail."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chaos.faults import LONGEST_S, Fault, Kind, plan_faults
from tests.chaos.site import KEEP_ALIVE_S, OFFLINE_GRACE_S, Evidence, Site, Try
from tests.chaos.verdict import (
    differing_logs,
    duplicates,
    final_tries,
    judge_tries,
    ledger_problems,
    left_over,
    missing_lines,
)

FIRST = Try(run="r", task="part", map=0, number=1)
SECOND = Try(run="r", task="part", map=0, number=2)
ROW: dict[str, Any] = {
    "job_id": "j",
    "run_id": "r",
    "task_id": "part",
    "map_index": 0,
    "try_number": 1,
    "state": "finished",
    "event_acked": 1,
    "live": 0,
    "token": None,
    "starter": "edge-1:7",
    "outcome": "success",
    "detail": "",
}
SEEDS = st.integers(0, 10**6)


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
        by_place.setdefault(fault.place, []).append(fault)
    for some in by_place.values():
        assert all(before.ends_s <= after.at_s for before, after in pairwise(some))


@settings(deadline=None)
@given(seed=SEEDS)
def test_five_minutes_bring_every_kind_of_fault_and_kill_every_part(seed: int) -> None:
    faults = plan_faults(seed, 300.0)
    assert {fault.kind for fault in faults} == set(Kind)
    killed = {fault.target for fault in faults if fault.kind is Kind.KILL}
    assert killed == {"bridge", "api-server", "scheduler", "scheduler-2", "edge-1", "edge-2", "edge-3"}


def test_faults_are_counted_by_their_sort() -> None:
    sorts = {fault.sort for fault in plan_faults(1, 600.0)}
    assert {"kill -9 of a worker", "kill -9 of the bridge", "kill -9 of a task"} <= sorts
    assert {"cut of a worker's link", "blackhole of the executors' link"} <= sorts


def test_two_of_the_longest_faults_in_a_row_are_far_shorter_than_the_grace() -> None:
    assert 2 * (LONGEST_S + 2 * KEEP_ALIVE_S) < OFFLINE_GRACE_S / 2


def test_a_try_that_began_twice_is_found() -> None:
    one, other = (Evidence(what=FIRST, worker=worker, pid=pid) for worker, pid in (("edge-1", 1), ("edge-2", 2)))
    assert duplicates([one, Evidence(what=SECOND, worker="edge-1", pid=3)]) == []
    assert len(duplicates([one, other])) == 1


def test_the_last_try_is_taken_from_what_airflow_says() -> None:
    instance = {"task_id": "part", "map_index": 0, "try_number": 2}
    assert final_tries({"r": [instance]}) == [SECOND]


def test_a_retry_is_allowed_only_when_its_task_was_killed() -> None:
    killed = judge_tries([SECOND], {FIRST, SECOND}, {FIRST}, scheduler_died=False)
    assert (killed.problems, killed.retries, killed.empty) == ([], 1, [])
    assert len(judge_tries([SECOND], {FIRST, SECOND}, set(), scheduler_died=True).problems) == 1


def test_a_try_without_code_is_allowed_only_when_a_scheduler_died() -> None:
    handed_back = judge_tries([SECOND], {SECOND}, set(), scheduler_died=True)
    assert (handed_back.problems, handed_back.empty) == ([], [FIRST])
    assert len(judge_tries([SECOND], {SECOND}, set(), scheduler_died=False).problems) == 1


def test_a_task_that_is_over_without_having_run_is_found() -> None:
    assert len(judge_tries([FIRST], set(), set(), scheduler_died=True).problems) == 1


def test_a_log_that_is_not_the_worker_s_is_found(tmp_path: Path) -> None:
    stack = SimpleNamespace(central_home=tmp_path / "central", worker_home=tmp_path.joinpath)
    site = cast("Site", SimpleNamespace(stack=stack))
    evidence = [Evidence(what=FIRST, worker="edge-1", pid=1)]
    path = Path("logs/dag_id=chaos_lines/run_id=r/task_id=part/map_index=0/attempt=1.log")
    for home, content in (("central", b"one\n"), ("edge-1", b"one\ntwo\n"), ("edge-2", b"one\n")):
        (tmp_path / home / path).parent.mkdir(parents=True)
        (tmp_path / home / path).write_bytes(content)
    assert len(differing_logs(site, evidence)) == 1
    (tmp_path / "central" / path).write_bytes(b"one\ntwo\n")
    assert differing_logs(site, evidence) == []


def test_a_log_with_a_missing_doubled_or_exchanged_line_is_found() -> None:
    lines = [b'{"event":"line %d of 3 by r/part/0"}\n' % number for number in range(3)]
    assert missing_lines(b"".join(lines)) is None
    for wrong in ([], lines[:2], [*lines, lines[2]], [lines[1], lines[0], lines[2]]):
        assert missing_lines(b"".join(wrong)) is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {"state": "running"},
        {"event_acked": 0},
        {"live": 1},
        {"token": "secret"},
        {"outcome": "lost"},
    ],
)
def test_a_job_that_is_not_properly_over_is_found_in_the_ledger(wrong: dict[str, Any]) -> None:
    assert ledger_problems([ROW], set()) == []
    assert len(ledger_problems([ROW | wrong], set())) == 1


def test_a_job_may_fail_when_its_task_was_killed_or_never_ran() -> None:
    assert ledger_problems([ROW | {"outcome": "failed"}], {FIRST}) == []
    assert ledger_problems([ROW | {"outcome": "lost", "starter": None}], set()) == []


def test_a_process_too_many_and_a_process_too_few_are_found() -> None:
    assert left_over({"edge-worker: launcher": 3}, {"edge-worker: launcher": 3}) == []
    assert len(left_over({"edge-worker: launcher": 3}, {"edge-worker: launcher": 4, "task": 1})) == 2
    assert len(left_over({"edge-worker: launcher": 3}, {"edge-worker: launcher": 2})) == 1
