"""Which faults happen when: drawn from a seed, decided before the first one."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum

BRIDGE = "bridge"
API_SERVER = "api-server"
TRIGGERER = "triggerer"
POSTGRES = "postgres"
SCHEDULERS = ("scheduler", "scheduler-2")
WORKERS = ("edge-1", "edge-2", "edge-3")
#: The link between the executors and the bridge. A worker's link is called after the worker.
EXECUTORS_LINK = "executors"
LINKS = (*WORKERS, EXECUTORS_LINK)

#: What a part is counted as.
_PARTS = (
    dict.fromkeys(SCHEDULERS, "a scheduler")
    | dict.fromkeys(WORKERS, "a worker")
    | {
        BRIDGE: "the bridge",
        API_SERVER: "the api-server",
        TRIGGERER: "the triggerer",
        POSTGRES: "PostgreSQL",
    }
)

#: Seconds that a fault lasts. The longest, and what a part needs to come up again, must end well before
#: ``offline_grace``: then no task may notice.
SHORTEST_S = 2.0
LONGEST_S = 16.0
#: Seconds that a frozen bridge stands still: longer than both sides' patience with a silent connection.
FROZEN_S = 20.0
#: Seconds between the beginnings of two faults.
_PAUSE_S = (2.0, 6.0)
#: More at once and little would be left to disturb.
_AT_ONCE = 3
#: Seconds that a killed part is counted as away after its restart, while it comes up.
_COMES_UP_S = 10.0


class Kind(StrEnum):
    """What happens to a fault's target."""

    #: kill -9, and a restart at the fault's end.
    KILL = "kill"
    #: SIGSTOP, and SIGCONT at the fault's end.
    FREEZE = "freeze"
    #: kill -9 of all that runs on a worker's machine; its worker starts again at the fault's end.
    REBOOT = "reboot"
    #: Connections are reset and refused.
    CUT = "cut"
    #: Every byte vanishes and nobody is told.
    BLACKHOLE = "blackhole"
    #: What the centre says vanishes; what is said to it arrives.
    HALF_OPEN = "half-open"
    #: Every byte takes long.
    DELAY = "delay"
    #: Connections are reset in the middle of a frame, once.
    TEAR = "tear"
    #: kill -9 of one task's process: a fault that a task must notice, as by all that follow.
    KILL_TASK = "kill task"
    #: The link is cut for longer than a task of the queue ``brief`` may be without the centre.
    OUTAGE = "outage"
    #: A running task is marked failed through the REST API.
    MARK = "mark"
    #: A running task is cleared through the REST API.
    CLEAR = "clear"


#: What is done to a task that runs at that moment, and how it is said.
_OF_A_TASK = {
    Kind.KILL_TASK: "kill -9 of a task",
    Kind.OUTAGE: "outage beyond the grace",
    Kind.MARK: "running task marked failed",
    Kind.CLEAR: "running task cleared",
}
_OF_A_PROCESS = {Kind.KILL: "kill -9", Kind.FREEZE: "freeze", Kind.REBOOT: "reboot"}
#: Over as soon as they have happened, or when it is found out that they can be over.
_AT_ONCE_OVER = frozenset({*_OF_A_TASK, Kind.TEAR})


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
        return _place(self.kind, self.target)

    @property
    def busy_until_s(self) -> float:
        """Until when its place should be left alone."""
        return self.ends_s + (_COMES_UP_S if self.kind in _OF_A_PROCESS else 0.0)

    @property
    def sort(self) -> str:
        """What it is counted as: targets of one sort together."""
        if self.kind in _OF_A_TASK:
            return _OF_A_TASK[self.kind]
        if self.kind in _OF_A_PROCESS:
            machine = " machine" if self.kind is Kind.REBOOT else ""
            return f"{_OF_A_PROCESS[self.kind]} of {_PARTS[self.target]}{machine}"
        whose = "the executors'" if self.target == EXECUTORS_LINK else "a worker's"
        return f"{self.kind} of {whose} link"

    def __str__(self) -> str:
        """Return it in words."""
        if self.kind in _OF_A_TASK:
            return _OF_A_TASK[self.kind]
        if self.kind in _OF_A_PROCESS:
            return f"{_OF_A_PROCESS[self.kind]} of {self.target}, back after {self.lasts_s:.0f} s"
        how_long = f" for {self.lasts_s:.0f} s" if self.lasts_s else ""
        return f"{self.kind} of the link of {self.target}{how_long}"


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
        busy = {fault.place for fault in planned if fault.busy_until_s > at_s and fault.kind not in _AT_ONCE_OVER}
        # A deck that is dealt to its end before it is shuffled anew: no kind of fault is left to luck.
        deck = deck or _shuffled(chance)
        card = next((card for card in deck if _can_begin(card, busy)), None)
        if card is None:
            continue
        deck.remove(card)
        kind, target = card
        planned.append(Fault(at_s=at_s, lasts_s=_length(kind, lasts_s, duration_s - at_s), kind=kind, target=target))


def _place(kind: Kind, target: str) -> tuple[bool, str]:
    return (kind in _OF_A_PROCESS, target)


def _can_begin(card: tuple[Kind, str], busy: set[tuple[bool, str]]) -> bool:
    kind, target = card
    if kind in _AT_ONCE_OVER:
        return kind in _OF_A_TASK or _place(kind, target) not in busy
    return len(busy) < _AT_ONCE and _place(kind, target) not in busy


def _length(kind: Kind, drawn_s: float, left_s: float) -> float:
    if kind in _AT_ONCE_OVER:
        return 0.0
    return min(FROZEN_S if kind is Kind.FREEZE else drawn_s, left_s)


def _shuffled(chance: random.Random) -> list[tuple[Kind, str]]:
    killed = (BRIDGE, *SCHEDULERS, API_SERVER, TRIGGERER, POSTGRES, *WORKERS)
    deck = [(Kind.KILL, part) for part in killed]
    deck += [(Kind.FREEZE, BRIDGE), (Kind.REBOOT, chance.choice(WORKERS))]
    for kind in (Kind.CUT, Kind.BLACKHOLE, Kind.HALF_OPEN, Kind.DELAY, Kind.TEAR):
        deck += [(kind, chance.choice(WORKERS)), (kind, EXECUTORS_LINK)]
    deck += [(kind, "") for kind in _OF_A_TASK]
    chance.shuffle(deck)
    return deck
