"""A little chaos on the real thing: nothing lost, nothing twice. ``make chaos MINUTES=…`` makes more of it."""

from __future__ import annotations

import pytest

from tests.chaos.run import run_chaos

#: Seconds of faults, and the seed that draws them. Others are for ``python -m tests.chaos``.
SECONDS = 75.0
SEED = 7


@pytest.mark.airflow
@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_runs_twice_while_everything_is_killed_and_cut() -> None:
    verdict = run_chaos(seconds=SECONDS, seed=SEED, keep=False, say=print)
    assert verdict.problems == []
    assert verdict.faults.total() >= 10
    assert verdict.runs >= 3
    assert verdict.log_bytes > 0
