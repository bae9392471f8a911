"""One run of the benchmark: four systems that take turns; all but one stand still."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.executors import scenarios, waterfall
from tests.benchmarks.executors.peers import Edge3, Ours
from tests.benchmarks.executors.scenarios import Figures
from tests.benchmarks.executors.systems import System

#: 1 Mbit/s.
WAN_BYTES_PER_S: Final = 125_000
#: Round trip times of the simulated WAN, in seconds; edge3 is measured over the one in the middle.
RTTS_S: Final = (0.02, 0.1, 0.3)
PEER_RTT_S: Final = 0.1


_NEAR: Final = "over a local link"
#: Systems that start at the same time: as many as the least machine has cores.
_STARTED_AT_ONCE: Final = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    #: Single tasks in each round.
    tasks: int
    #: Tasks at each round trip time.
    wan_tasks: int
    rtts_s: tuple[float, ...]
    idle_s: float
    #: Tasks of the waterfall.
    waterfall_tasks: int


FULL: Final = Plan(rounds=3, tasks=5, wan_tasks=4, rtts_s=RTTS_S, idle_s=120.0, waterfall_tasks=10)
QUICK: Final = Plan(rounds=1, tasks=2, wan_tasks=2, rtts_s=(PEER_RTT_S,), idle_s=20.0, waterfall_tasks=3)


class Session:
    """Measures; what has been found so far is in :attr:`figures`."""

    def __init__(
        self, directory: Path, kinds: Sequence[type[System]], plan: Plan, say: Callable[[str], None]
    ) -> None:
        """Describe it.

        :param directory: an empty folder with a short path.
        :param say: told what happens.
        """
        self.figures: dict[str, dict[str, Any]] = {
            kind.name: {"single": [], "mapped": [], "full": [], "idle": [], "lines": [], "wan": {}} for kind in kinds
        }
        self._directory = directory
        self._kinds = kinds
        self._plan = plan
        self._say = say
        self._chance = random.Random(4)

    def run(self) -> None:
        """Measure everything."""
        self._directory.chmod(0o711)
        with contextlib.ExitStack() as held:
            systems = [kind(self._directory / str(place)) for place, kind in enumerate(self._kinds)]
            for system in systems:
                held.push(system)
            with ThreadPoolExecutor(_STARTED_AT_ONCE) as pool:
                list(pool.map(self._start, systems))
            for number in range(self._plan.rounds):
                # Each is first once.
                turn = number % len(systems)
                for system in systems[turn:] + systems[:turn]:
                    self._say(f"round {number + 1} of {self._plan.rounds}: {system.name}")
                    with _awake(system):
                        self._round(system, first=number == 0)
            for system in systems:
                with _awake(system):
                    self._far_away(system)
            self._idle(systems)

    def _start(self, system: System) -> None:
        self._say(f"starting {system.name}")
        system.start()
        for dag_id in (scenarios.NOOP, scenarios.MAPPED, scenarios.HOLD, waterfall.DAG):
            system.stack.wait_for_dag(dag_id)
        scenarios.warm_up(system)
        system.freeze()

    def _round(self, system: System, *, first: bool) -> None:
        figures = self.figures[system.name]
        scenarios.warm_up(system)
        figures["single"] += [scenarios.one_task(system, self._chance) for _ in range(self._plan.tasks)]
        if first and isinstance(system, Ours):
            figures["waterfall"] = {_NEAR: waterfall.measure(system, self._plan.waterfall_tasks)}
        figures["mapped"].append(scenarios.many_tasks(system))
        figures["lines"].append(scenarios.printed_lines(system))
        if first:
            figures["full"].append(scenarios.full_worker(system))

    def _far_away(self, system: System) -> None:
        figures = self.figures[system.name]
        for rtt_s in {Ours: self._plan.rtts_s, Edge3: (PEER_RTT_S,)}.get(type(system), ()):
            where = f"over a link of {rtt_s * 1000:.0f} ms and 1 Mbit/s"
            self._say(f"{system.name} {where}")
            with scenarios.far_away(system, rtt_s=rtt_s, bytes_per_s=WAN_BYTES_PER_S):
                figures["wan"][str(rtt_s)] = [
                    scenarios.one_task(system, self._chance) for _ in range(self._plan.wan_tasks)
                ]
                if isinstance(system, Ours) and rtt_s == PEER_RTT_S:
                    figures["waterfall"][where] = waterfall.measure(system, self._plan.waterfall_tasks)

    def _idle(self, systems: Sequence[System]) -> None:
        for system in systems:
            system.thaw()
            scenarios.warm_up(system)
        self._say(f"all idle for {self._plan.idle_s:.0f} s")
        found: dict[str, Figures] = scenarios.idle_together(systems, self._plan.idle_s)
        for name, figures in found.items():
            self.figures[name]["idle"].append(figures)


@contextlib.contextmanager
def _awake(system: System) -> Iterator[None]:
    system.thaw()
    try:
        yield
    finally:
        system.freeze()
