"""One run of the benchmark: four systems that take turns; all but one stand still."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.executors import scenarios, waterfall
from tests.benchmarks.executors.peers import Edge3, Ours
from tests.benchmarks.executors.systems import System

#: 1 Mbit/s.
WAN_BYTES_PER_S: Final = 125_000
#: Round trip times of the simulated WAN, in seconds; edge3 is measured over the one in the middle.
RTTS_S: Final = (0.02, 0.1, 0.3)
PEER_RTT_S: Final = 0.1

_NEAR: Final = "over a local link"
#: Systems that start at the same time: as many as the least machine has cores.
_STARTED_AT_ONCE: Final = 2
#: Steps that may fail before a system is left alone: each may have waited for minutes.
_PATIENCE: Final = 3
#: Seconds after which a worker that has had a task is idle.
_SETTLE_S: Final = 10.0


#: What a step is called, and what it does.
_Step = tuple[str, Callable[[], object]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int
    #: Single tasks in each round.
    tasks: int
    #: Rounds that have the hundred tasks and the printed lines, too.
    long_rounds: int
    #: Tasks at each round trip time.
    wan_tasks: int
    rtts_s: tuple[float, ...]
    idle_s: float
    #: Tasks of the waterfall.
    waterfall_tasks: int


FULL: Final = Plan(rounds=3, tasks=5, long_rounds=2, wan_tasks=4, rtts_s=RTTS_S, idle_s=120.0, waterfall_tasks=6)
QUICK: Final = Plan(
    rounds=1, tasks=2, long_rounds=1, wan_tasks=2, rtts_s=(PEER_RTT_S,), idle_s=20.0, waterfall_tasks=3
)


class Session:
    """Measures; what has been found so far is in :attr:`figures`, and for each system what failed."""

    def __init__(
        self, directory: Path, kinds: Sequence[type[System]], plan: Plan, say: Callable[[str], None]
    ) -> None:
        """Describe it.

        :param directory: an empty folder with a short path.
        :param say: told what happens.
        """
        parts = ("single", "mapped", "full", "idle", "lines", "failed")
        self.figures: dict[str, dict[str, Any]] = {
            kind.name: {"wan": {}, **{part: [] for part in parts}} for kind in kinds
        }
        self._directory = directory
        self._kinds = kinds
        self._plan = plan
        self._say = say
        self._chance = random.Random(4)

    @property
    def failed(self) -> bool:
        """Whether any step of any system has failed."""
        return any(figures["failed"] for figures in self.figures.values())

    def run(self) -> None:
        """Measure everything; a step that fails is noted, and the others go on."""
        self._directory.chmod(0o711)
        with contextlib.ExitStack() as held:
            systems = [held.enter_context(kind(self._directory / str(n))) for n, kind in enumerate(self._kinds)]
            with ThreadPoolExecutor(_STARTED_AT_ONCE) as pool:
                came_up = list(pool.map(self._start, systems))
            systems = [system for system, is_up in zip(systems, came_up, strict=True) if is_up]
            for number in range(self._plan.rounds if systems else 0):
                # Another one is first each time.
                turn = number % len(systems)
                for system in systems[turn:] + systems[:turn]:
                    self._round(system, number)
            for system in systems:
                self._far_away(system)
            self._idle(systems)

    def step(self, system: System, what: str, action: Callable[[], object]) -> bool:
        """Do something with a system and tell whether that went well; after several failures nothing is done."""
        failed = self.figures[system.name]["failed"]
        if len(failed) >= _PATIENCE:
            return False
        self._say(f"{system.name}: {what}")
        try:
            action()
        except Exception as error:  # noqa: BLE001 -- whatever it is, the other figures are still worth having
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self._say(f"{system.name}: {what}: {reason}")
            failed.append((what, reason))
            return False
        return True

    def _start(self, system: System) -> bool:
        up = self.step(system, "start", partial(_start, system))
        if not up:
            system.stop()
        return up

    def _round(self, system: System, number: int) -> None:
        figures, plan = self.figures[system.name], self._plan
        title = f"round {number + 1} of {plan.rounds}, "
        steps: list[_Step] = [
            ("one task at a time", lambda: self._single_tasks(system, plan.tasks, figures["single"]))
        ]
        if number == 0 and isinstance(system, Ours):
            steps.append(("waterfall", lambda: self._waterfall(system, _NEAR)))
        if number < plan.long_rounds:
            steps.append(("100 mapped tasks", lambda: figures["mapped"].append(scenarios.many_tasks(system))))
            steps.append(("printed lines", lambda: figures["lines"].append(scenarios.printed_lines(system))))
        if number == 0:
            steps.append(("all slots busy", lambda: figures["full"].append(scenarios.full_worker(system))))
        self._awake(system, title, steps)

    def _far_away(self, system: System) -> None:
        rtts_s = {Ours: self._plan.rtts_s, Edge3: (PEER_RTT_S,)}.get(type(system), ())
        steps = [(_where(rtt_s), partial(self._over_link, system, rtt_s)) for rtt_s in rtts_s]
        if steps:
            self._awake(system, "", steps)

    def _awake(self, system: System, title: str, steps: Sequence[_Step]) -> None:
        if self.step(system, title + "wake-up", partial(_wake, system)):
            for what, action in steps:
                self.step(system, title + what, partial(_if_alive, system, action))
        system.freeze()

    def _single_tasks(self, system: System, count: int, found: list[scenarios.Figures]) -> None:
        # One by one: those before a failure count.
        found.extend(scenarios.one_task(system, self._chance) for _ in range(count))

    def _waterfall(self, system: System, where: str) -> None:
        found = self.figures[system.name].setdefault("waterfall", {})
        found[where] = waterfall.measure(system, self._plan.waterfall_tasks)

    def _over_link(self, system: System, rtt_s: float) -> None:
        with scenarios.far_away(system, rtt_s=rtt_s, bytes_per_s=WAN_BYTES_PER_S):
            found = self.figures[system.name]["wan"].setdefault(str(rtt_s), [])
            self._single_tasks(system, self._plan.wan_tasks, found)
            if isinstance(system, Ours) and rtt_s == PEER_RTT_S:
                self._waterfall(system, _where(rtt_s))

    def _idle(self, systems: Sequence[System]) -> None:
        idling = [system for system in systems if self.step(system, "wake-up to be idle", partial(_wake, system))]
        if not idling:
            return
        self._say(f"all idle for {_SETTLE_S:.0f} s and {self._plan.idle_s:.0f} s more")
        time.sleep(_SETTLE_S)
        since = {system: scenarios.idle_from_now(system) for system in idling}
        time.sleep(self._plan.idle_s)
        for system, used in since.items():
            self.step(system, "idle", partial(_if_alive, system, partial(self._note_idle, system, used)))

    def _note_idle(self, system: System, used: Callable[[], scenarios.Figures]) -> None:
        self.figures[system.name]["idle"].append(used())


def _start(system: System) -> None:
    system.start()
    for dag_id in (scenarios.NOOP, scenarios.MAPPED, scenarios.HOLD, waterfall.DAG):
        system.stack.wait_for_dag(dag_id)
    scenarios.warm_up(system)
    system.freeze()


def _wake(system: System) -> None:
    system.thaw()
    scenarios.warm_up(system)


def _if_alive(system: System, action: Callable[[], object]) -> None:
    # What is dead is not waited for.
    system.stack.check_alive()
    action()


def _where(rtt_s: float) -> str:
    return f"over a link of {rtt_s * 1000:.0f} ms and 1 Mbit/s"
