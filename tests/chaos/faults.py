"""Which faults happen when: drawn from a seed, decided before the first one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

BRIDGE = "bridge"
API_SERVER = "api-server"
SCHEDULERS = ("scheduler", "scheduler-2")
WORKERS = ("edge-1", "edge-2", "edge-3")
#: The link between the executors and the bridge. A worker's link is called after the worker.
EXECUTORS_LINK = "executors"
LINKS = (*WORKERS, EXECUTORS_LINK)

#: What a part is counted as.
_PARTS = (
    dict.fromkeys(SCHEDULERS, "a scheduler")
    | dict.fromkeys(WORKERS, "a worker")
    | {BRIDGE: "the bridge", API_SERVER: "the api-server"}
)

#: Seconds that a fault lasts. The longest, and what a part needs to come up again, must end well before
#: ``offline_grace``: then no task may notice.
SHORTEST_S = 2.0
LONGEST_S = 16.0
#: Seconds between the beginnings of two faults.
_PAUSE_S = (3.0, 9.0)
#: More at once and little would be left to disturb.
_AT_ONCE = 2
#: Seconds that a killed part is counted as away after its restart, while it comes up.
_COMES_UP_S = 10.0


class Kind(StrEnum):
    """What happens to a fault's target."""

    #: kill -9, and a restart at the fault's end.
    KILL = "kill"
    #: Connections are reset and refused.
    CUT = "cut"
    #: Every byte vanishes and nobody is told.
    BLACKHOLE = "blackhole"
    #: Every byte takes long.
    DELAY = "delay"
    #: kill -9 of one task's process: the only fault that a task may, and must, notice.
    KILL_TASK = "kill task"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One fault; times in seconds from the beginning."""

    at_s: float
    lasts_s: float
    kind: Kind
    #: A part or a link; empty when it is drawn among what runs at that moment.
    target: str = ""

    @property
    def ends_s(self) -> float:
        """When it is undone."""
        return self.at_s + self.lasts_s

    @property
    def place(self) -> tuple[bool, str]:
        """What is disturbed: a process or a link."""
        return (self.kind is Kind.KILL, self.target)

    @property
    def busy_until_s(self) -> float:
        """Until when its place should be left alone."""
        return self.ends_s + (_COMES_UP_S if self.kind is Kind.KILL else 0.0)

    @property
    def sort(self) -> str:
        """What it is counted as: targets of one sort together."""
        if self.kind is Kind.KILL_TASK:
            return "kill -9 of a task"
        if self.kind is Kind.KILL:
            return f"kill -9 of {_PARTS[self.target]}"
        whose = "the executors'" if self.target == EXECUTORS_LINK else "a worker's"
        return f"{self.kind} of {whose} link"

    def __str__(self) -> str:
        """Return it in words."""
        if self.kind is Kind.KILL_TASK:
            return "kill -9 of a task"
        if self.kind is Kind.KILL:
            return f"kill -9 of {self.target}, back after {self.lasts_s:.0f} s"
        return f"{self.kind} of the link of {self.target} for {self.lasts_s:.0f} s"


def plan_faults(seed: int, duration_s: float) -> list[Fault]:
    """Return the faults of a run of ``duration_s`` seconds in the order of their beginnings; all end in that time."""
    # The schedule must be the same again for the same seed; nothing here is secret.
    chance = random.Random(seed)
    planned: list[Fault] = []
    deck: list[tuple[Kind, str]] = []
    at_s = 0.0
    while True:
        at_s += chance.uniform(*_PAUSE_S)
        lasts_s = chance.uniform(SHORTEST_S, LONGEST_S)
        if at_s >= duration_s:
            return planned
        busy = {fault.place for fault in planned if fault.busy_until_s > at_s}
        if len(busy) >= _AT_ONCE:
            continue
        # A deck that is dealt to its end before it is shuffled anew: no kind of fault is left to luck.
        deck = deck or _shuffled(chance)
        card = next((card for card in deck if (card[0] is Kind.KILL, card[1]) not in busy), None)
        if card is None:
            continue
        deck.remove(card)
        kind, target = card
        lasts_s = 0.0 if kind is Kind.KILL_TASK else min(lasts_s, duration_s - at_s)
        planned.append(Fault(at_s=at_s, lasts_s=lasts_s, kind=kind, target=target))


def _shuffled(chance: random.Random) -> list[tuple[Kind, str]]:
    killed: Sequence[str] = (BRIDGE, *SCHEDULERS, API_SERVER, *WORKERS)
    deck = [(Kind.KILL, part) for part in killed]
    for kind in (Kind.CUT, Kind.BLACKHOLE, Kind.DELAY):
        deck += [(kind, chance.choice(WORKERS)), (kind, EXECUTORS_LINK)]
    deck += [(Kind.KILL_TASK, "")] * 2
    chance.shuffle(deck)
    return deck
