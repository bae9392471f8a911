"""The five promises over many simulated lives of the whole system, and the proof that the checks can fail."""

from __future__ import annotations

import os
import tempfile

# Before Airflow's first import, which reads it. Whoever set it already may keep it: nothing here writes there.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import re
import subprocess
import sys
import time
from collections import Counter
from typing import Final

import pytest

from tests.simulation.broken_rules import BROKEN, NOTICED_WITHIN, BrokenRule
from tests.simulation.plan import FAULTS
from tests.simulation.run import summary, tail_of, try_seed

#: Seconds of CPU that seeds are run for, how many there are at most (these are known to hold: a rare defect is found
#: by `make simulate SEEDS=…`, not by a fast machine), and how many there must be on the slowest machine.
BUDGET_S: Final = 40.0
MOST_SEEDS: Final = 150
FEWEST_SEEDS: Final = 60
#: What must have happened in that many seeds, or they prove little.
MUST_HAPPEN: Final = {
    *("Bridge killed", "Worker killed", "Scheduler killed", "user code", "final event", *FAULTS),
    *("run triggered", "own run refused", "others' run refused"),
}


@pytest.mark.timeout(1200)
def test_promises_hold_whatever_is_lost_cut_off_or_killed(capsys: pytest.CaptureFixture[str]) -> None:
    tally: Counter[str] = Counter()
    seed, until = 0, time.process_time() + BUDGET_S
    while seed < FEWEST_SEEDS or (seed < MOST_SEEDS and time.process_time() < until):
        broken, happened = try_seed(seed)
        if broken:
            pytest.fail(f"{tail_of(seed)}\n{broken}", pytrace=False)
        tally += happened
        seed += 1
    with capsys.disabled():
        print(f"\n{seed} seeds: {summary(tally)}")
    assert set(tally) >= MUST_HAPPEN


def test_a_seed_replays_exactly_in_another_process() -> None:
    program = "from tests.simulation.world import simulate; print(simulate(13, lambda line: None).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.splitlines()[-1]
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.timeout(600)
@pytest.mark.parametrize("rule", BROKEN, ids=lambda rule: rule.name)
def test_a_broken_rule_is_noticed(monkeypatch: pytest.MonkeyPatch, rule: BrokenRule) -> None:
    for place, name, broken in rule.replaced:
        monkeypatch.setattr(place, name, broken)
    assert any(re.search(rule.noticed, try_seed(seed, rule.reshape)[0]) for seed in range(NOTICED_WITHIN))
