"""The five promises over many simulated lives of the whole system, and the proof that the checks can fail."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import time
from typing import Any, Final

import pytest

from edge_mqtt.broker_bridge.dispatch.core.board import Board
from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.worker.core import lease
from edge_mqtt.worker.core.log_cursor import LogCursor
from tests.simulation.bridge import Bridge
from tests.simulation.bridge_logs import CentralLogs
from tests.simulation.promises import PromiseBroken
from tests.simulation.worker_lease import Presences
from tests.simulation.world import simulate

#: Seconds of real time that seeds are run for, and how many there must be at least on the slowest machine.
BUDGET_S: Final = 20.0
FEWEST_SEEDS: Final = 50
#: Within how many seeds a broken rule must be noticed.
NOTICED_WITHIN: Final = 300


def test_promises_hold_whatever_is_lost_cut_off_or_killed() -> None:
    until = time.monotonic() + BUDGET_S
    tally: dict[str, int] = {}
    for seed in itertools.count():
        if seed >= FEWEST_SEEDS and time.monotonic() >= until:
            break
        for what, how_often in simulate(seed).tally.items():
            tally[what] = tally.get(what, 0) + how_often
    assert {"Bridge killed", "Worker killed", "Scheduler killed", "user code", "final event"} <= set(tally), tally


def test_a_seed_replays_exactly_in_another_process() -> None:
    program = "from tests.simulation.world import simulate; print(simulate(13, lambda line: None).digest)"
    digests = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1


# ---------------------------------------------------------------- broken on purpose


def no_fence(self: Board, _worker: WorkerName, job_id: JobId, _fence: int) -> Job | None:
    """Believe every worker's word about every job that somebody holds."""
    job = self.jobs.get(job_id)
    return None if job is None or job.holder is None else job


def advance_before_ack(self: LogCursor, length: int, now: float) -> None:
    """Count what is on its way as stored."""
    self.sent += length
    self.acked, self.progress_at = self.sent, now


@pytest.mark.parametrize(
    ("place", "name", "broken", "noticed"),
    [
        (Board, "current", no_fence, "promise (2|4|5)"),
        (Bridge, "speaks_first", True, "promise (1|2|4)"),
        (CentralLogs, "acknowledges_first", True, "promise 3"),
        (LogCursor, "advance", advance_before_ack, "promise 3"),
        (lease, "LEASE_MARGIN_S", -60.0, "promise 2"),
        (Presences, "spares_new_processes", False, "promise 4.*out of reach"),
    ],
    ids=[
        "no fence",
        "bridge speaks before its commit",
        "log acknowledged before it is stored",
        "log offset advances before the acknowledgement",
        "lease longer than the centre's",
        "lease from before the idle time",
    ],
)
def test_a_broken_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch, place: Any, name: str, broken: Any, noticed: str
) -> None:
    monkeypatch.setattr(place, name, broken)
    assert any(re.search(noticed, verdict(seed)) for seed in range(NOTICED_WITHIN))


def verdict(seed: int) -> str:
    """Return which promise a seed breaks; empty when it keeps all."""
    try:
        simulate(seed)
    except PromiseBroken as broken:
        return str(broken)
    return ""
