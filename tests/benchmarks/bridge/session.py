"""Bridges with different numbers of workers, measured in turn."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.bridge.certificates import Parties
from tests.benchmarks.bridge.fleet import FAR_QUEUE, Fleet
from tests.benchmarks.bridge.loop import Loop
from tests.benchmarks.bridge.process import BridgeProcess
from tests.benchmarks.bridge.simulated import QUEUE, Life
from tests.benchmarks.figures import percentile

#: Connections that are there before the cost of the others is counted: what is only loaded at the first.
_FIRST: Final = 10
#: Jobs that warm a new bridge up, and those that warm it up again after the others' turns.
_WARM_UP: Final = 200
_WARM_UP_AGAIN: Final = 10
#: Jobs of one turn that run one at a time, near and at the end of the long link.
_CALM_JOBS: Final = 40
_FAR_JOBS: Final = 4
#: Round trip time of the long link, in seconds.
RTT_S: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much is measured."""

    workers: Sequence[int]
    rounds: int
    #: Jobs of one turn, of which so many at a time.
    jobs: int
    outstanding: int
    #: Seconds at rest.
    idle_s: float
    storms: int


class Site:
    """One bridge with its workers, and what was measured there in ``figures``."""

    def __init__(self, workers: int, plan: Plan, bridge: BridgeProcess, fleet: Fleet) -> None:
        self.workers = workers
        self._plan = plan
        self.bridge = bridge
        self.fleet = fleet
        self._loop = fleet.loop
        self.figures: dict[str, Any] = {"busy": [], "calm": [], "far": [], "storm": []}

    def set_up(self) -> None:
        """Connect everybody, and count what connections cost."""
        self.fleet.begin(rtt_s=RTT_S)
        self.fleet.grow(min(_FIRST, self.workers))
        self.fleet.run_jobs(_WARM_UP, outstanding=_WARM_UP // 4)
        self.fleet.run_jobs(1, outstanding=1, queue=FAR_QUEUE)
        self._loop.run_for(1)
        before, memory = self.bridge.usage(), self.bridge.memory()
        self.fleet.grow(self.workers)
        used = self.bridge.usage() - before
        self._loop.run_for(1)
        self.figures["connecting"] = {
            "connections": self.workers - min(_FIRST, self.workers),
            "seconds": used.wall_s,
            "bridge_cpu_s": used.bridge_cpu_s,
            "bytes": self.bridge.memory() - memory,
        }
        self.figures["memory_bytes"] = self.bridge.memory()

    def take_turn(self) -> None:
        """Have jobs run: many at a time, one at a time, and one at a time far away."""
        self.fleet.run_jobs(_WARM_UP_AGAIN, outstanding=1)
        self._run_busy()
        self.figures["calm"].append(_delays(self.fleet.run_jobs(_CALM_JOBS, outstanding=1, queue=QUEUE)))
        far = _delays(self.fleet.run_jobs(_FAR_JOBS, outstanding=1, queue=FAR_QUEUE))
        self.figures["far"].append(far | {"round_trip": [self.fleet.round_trip() for _ in range(_FAR_JOBS)]})

    def _run_busy(self) -> None:
        """Count while as many jobs end as begin: neither the first, which meet nobody, nor the last."""
        executor, outstanding, jobs = self.fleet.executor, self._plan.outstanding, self._plan.jobs
        known, ended = len(self.fleet.jobs), executor.finished
        executor.left = jobs + outstanding
        for _ in range(outstanding):
            executor.submit()
        self._loop.run_until(lambda: executor.finished - ended >= outstanding, "the first jobs' ends")
        before, first = self.bridge.usage(), executor.finished
        self._loop.run_until(lambda: executor.finished - first >= jobs, f"the end of {jobs} jobs")
        used, count = self.bridge.usage() - before, executor.finished - first
        end = before.wall_s + used.wall_s
        lives = [life for life in self.fleet.drain(known) if before.wall_s < life.finished <= end]
        self.figures["busy"].append(
            {
                "jobs": count,
                "jobs_per_s": count / used.wall_s,
                "bridge_cpu_s": used.bridge_cpu_s / count,
                "bridge_cpu_share": used.bridge_cpu_s / used.wall_s,
                "load_cpu_share": used.load_cpu_s / used.wall_s,
                **{
                    f"{moment}_s": [percentile(values, share) for share in (0.5, 0.95)]
                    for moment, values in _delays(lives).items()
                },
            }
        )

    def storm(self) -> None:
        """Cut every connection while each worker runs a job; wait until all are back, then let the jobs end."""
        fleet, known = self.fleet, len(self.fleet.jobs)
        fleet.hold = True
        for _ in fleet.workers:
            fleet.executor.submit()
        self._loop.run_until(
            lambda: sum(len(worker.running) for worker in fleet.workers) >= len(fleet.workers), "every job's start"
        )
        before = self.bridge.usage()
        fleet.reconnect()
        used = self.bridge.usage() - before
        fleet.hold = False
        for worker in fleet.workers:
            for job in list(worker.running):
                worker.finish(job)
        fleet.drain(known)
        self.figures["storm"].append(
            {
                "seconds": used.wall_s,
                "bridge_cpu_s": used.bridge_cpu_s,
                "load_cpu_s": used.load_cpu_s,
                "finished_s": (self.bridge.usage() - before).wall_s,
            }
        )

    def check(self) -> None:
        """Let no figure pass that comes from jobs that went wrong.

        :raises RuntimeError: some did.
        """
        if self.fleet.executor.failed or self.fleet.refused_starts:
            raise RuntimeError(
                f"with {self.workers:,} workers {self.fleet.executor.failed} jobs failed, "
                f"{self.fleet.refused_starts} may not start"
            )


def _delays(lives: Sequence[Life]) -> dict[str, list[float]]:
    """Return how long after their submission jobs were at their worker, had started, had ended."""
    return {
        "assigned": [life.assigned - life.submitted for life in lives],
        "started": [life.started - life.submitted for life in lives],
        "finished": [life.finished - life.submitted for life in lives],
    }


def run(plan: Plan, parties: Parties, folder: Path, wrapper: tuple[str, ...], say: Callable[[str], None]) -> Any:
    """Measure a bridge for every number of workers, round by round; return the figures by that number.

    Bridges that are not measured at a moment have nothing to do but their clients' pings.
    """
    # Thousands of contexts and connections make a collection slow, and nothing here is garbage.
    gc.disable()
    with ExitStack() as stack:
        stack.callback(gc.enable)
        loop = Loop()
        stack.callback(loop.close)
        sites = []
        for workers in plan.workers:
            say(f"{workers:,} workers connect")
            bridge = BridgeProcess(Path(tempfile.mkdtemp(dir=folder)), parties.bridge_folder, wrapper)
            stack.callback(bridge.close)
            fleet = Fleet(loop, parties, bridge.port)
            stack.callback(fleet.close)
            sites.append(Site(workers, plan, bridge, fleet))
            sites[-1].set_up()
        for number in range(plan.rounds):
            for site in _in_turn(sites, number):
                say(f"round {number + 1} of {plan.rounds}: {site.workers:,} workers")
                site.take_turn()
        for number in range(plan.storms):
            for site in _in_turn(sites, number):
                say(f"storm {number + 1} of {plan.storms}: {site.workers:,} workers")
                site.storm()
        if plan.idle_s:
            say(f"{plan.idle_s:g} s at rest")
            _rest(sites, loop, plan.idle_s)
        for site in sites:
            site.check()
    return {str(site.workers): site.figures for site in sites}


def _in_turn(sites: Sequence[Site], number: int) -> list[Site]:
    first = number % len(sites)
    return [*sites[first:], *sites[:first]]


def _rest(sites: Sequence[Site], loop: Loop, seconds: float) -> None:
    before = [site.bridge.usage() for site in sites]
    loop.run_for(seconds)
    for site, usage in zip(sites, before, strict=True):
        used = site.bridge.usage() - usage
        site.figures["idle"] = {"seconds": used.wall_s, "bridge_cpu_s": used.bridge_cpu_s}
