"""What one seed stands for: who is there, what they do, how the network behaves and what goes wrong."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Final

from edge_mqtt.broker_bridge.protocol.limits import LEASE_MARGIN_S

#: The design's durations, made short so that every one of them is outlived many times in a run. Seconds.
GRACE_S: Final = 100.0
KILL_GRACE_S: Final = 10.0
PRESENCE_S: Final = 5.0
KEEP_ALIVE_S: Final = 10.0
#: What of a job's lease is not its grace: see the bridge's settings.
LEASE_BEYOND_GRACE_S: Final = PRESENCE_S + KILL_GRACE_S + LEASE_MARGIN_S
#: Outages must not be noticed by any task until its grace is nearly over: a worker may need this long to connect
#: again and to be answered over a slow wire.
RECONNECT_S: Final = 15.0
#: An outage is over when everything has worked for this long.
CALM_S: Final = 25.0
#: Trouble lasts this long, then everything heals.
TROUBLE_S: Final = 400.0
#: Everything must have come to its end this long after everything healed, beside the time that its work takes.
HEALING_S: Final = 600.0
#: Tries of a task.
MAX_TRIES: Final = 2
#: How much of the time an untidy broker does what it should with a message.
BROKER_TRUST: Final = 0.94
#: What a task may tell Airflow that goes on as another job afterwards: in the same try, or in any.
PAUSES: Final = ("deferred", "up_for_reschedule")
GOES_ON: Final = (*PAUSES, "up_for_retry")
#: The queue whose jobs have another grace, and the one whose logs stay on the worker.
PATIENT_QUEUE: Final = "ship"
KEEPING_QUEUE: Final = "cameras"


@dataclass(frozen=True, kw_only=True, slots=True)
class Manners:
    """How the network treats messages."""

    #: In order and complete while a connection lasts.
    tidy: bool
    #: Seconds that a slow packet takes at most.
    slow_s: float = 3.0
    #: How often a message that outlived its connection is delivered all the same.
    outlives: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """One task or callback, and all that it will do."""

    number: int
    #: When Airflow schedules it.
    at: float
    callback: bool
    queue: str
    slots: int
    priority: int
    #: What its user code does, in order: ("log", bytes), ("sleep", seconds), ("call", 0), and to trigger a Dag run
    #: ("trigger", 0) with a new id, or ("trigger", 1) with the one that it always gives.
    script: tuple[tuple[str, float], ...]
    exit_code: int
    #: What it tells Airflow once, in the midst of its user code, which ends its first job (``deferred``,
    #: ``up_for_reschedule``); empty: nothing.
    pauses: str
    #: Its process ends well without having told Airflow anything.
    is_silent: bool
    #: Its log's path leads in a circle on every worker.
    has_no_log: bool
    #: Its supervisor ends on SIGTERM.
    obeys: bool
    #: When somebody else makes the Dag run that has the id that it always gives; None: never.
    run_made_at: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything that is decided before the run begins."""

    seed: int
    workers: int
    executors: int
    concurrency: int
    work: tuple[Work, ...]
    manners: Manners
    #: Faults that may happen, and how many seconds lie between two of them on average.
    faults: tuple[str, ...]
    pause_s: float
    #: How often a program dies in the middle of a step, by its kind.
    deadly: dict[str, float] = field(hash=False)
    #: The grace at each start of the bridge is one of these.
    graces_s: tuple[float, ...]
    #: How often the api-server turns a call away because it has too many.
    busy: float
    #: Seconds that a restarted bridge waits for the worker of an assigned job.
    settle_s: float
    #: Finished jobs that the bridge keeps in memory.
    remembered_jobs: int

    @property
    def longest_s(self) -> float:
        """How long a run lasts at most: its work may have to be done one after the other, and twice."""
        work_s = sum(amount for work in self.work for step, amount in work.script if step == "sleep")
        return TROUBLE_S + HEALING_S + MAX_TRIES * work_s


FAULTS: Final = (
    *("cut", "silence", "silence", "kill worker", "kill bridge", "kill executor", "reboot", "oom"),
    *("api down", "ledger full", "revoke", "clear", "rogue", "long outage", "bridge away"),
    *("drain", "clock jump", "log disk full", "spool full", "hang", "new machine"),
)
#: What came later draws lots of its own: what else is in a seed's plan stays as it was.
#: A fault, and how many plans have it.
_LATER_FAULT: Final = ("mark", 0.25)


def plan_of(seed: int) -> Plan:
    """Return the plan of a seed. Each plan leaves some faults out, so that the others are seen undisturbed."""
    chance = random.Random(f"plan {seed}")
    tidy = chance.random() < 0.7
    faults = tuple(fault for fault in FAULTS if chance.random() < 0.45)
    later, share = _LATER_FAULT
    if random.Random(f"{later} {seed}").random() < share:
        faults += (later,)
    work = tuple(_work(chance, number) for number in range(chance.randint(3, 10)))
    late = random.Random(f"triggers {seed}")
    work = tuple(_triggering(late, one) for one in work)
    return Plan(
        seed=seed,
        workers=chance.randint(1, 3),
        executors=chance.randint(1, 2),
        concurrency=chance.choice([1, 2, 4]),
        work=work,
        manners=Manners(tidy=tidy, outlives=0.0 if tidy else 0.2),
        faults=faults,
        pause_s=chance.choice([6.0, 15.0, 40.0]),
        deadly={
            **{kind: chance.choice([0.0, 0.0, 0.002, 0.01]) for kind in ("bridge", "worker", "executor")},
            "api": chance.choice([0.0, 0.0, 0.01, 0.05]),
        },
        graces_s=chance.choice([(GRACE_S,), (GRACE_S, 0.7 * GRACE_S, 1.5 * GRACE_S)]),
        busy=late.choice([0.0, 0.0, 0.1, 0.3]),
        settle_s=chance.choice([15.0, 30.0]),
        remembered_jobs=chance.choice([0, 2, 4096]),
    )


def _work(chance: random.Random, number: int) -> Work:
    callback = chance.random() < 0.2
    steps: list[tuple[str, float]] = []
    for _ in range(chance.randint(1, 6)):
        steps.append(("log", float(chance.choice([1, 40, 300, 5_000]))))
        steps.append(("sleep", chance.choice([0.1, 2.0, 10.0, 40.0])))
        if chance.random() < 0.4:
            steps.append(("call", 0.0))
    return Work(
        number=number,
        at=chance.uniform(0.0, TROUBLE_S * 0.8),
        callback=callback,
        queue=chance.choice(["lab", "lab", "lab", PATIENT_QUEUE, KEEPING_QUEUE]),
        slots=chance.choice([1, 1, 1, 2, 3]),
        priority=chance.randint(1, 2),
        script=tuple(steps),
        exit_code=0 if chance.random() < 0.85 else 1,
        pauses=chance.choice(PAUSES) if not callback and chance.random() < 0.35 else "",
        is_silent=not callback and chance.random() < 0.05,
        has_no_log=not callback and chance.random() < 0.05,
        obeys=chance.random() < 0.5,
    )


def _triggering(chance: random.Random, work: Work) -> Work:
    """Let some tasks trigger Dag runs."""
    if work.callback or chance.random() < 0.4:
        return work
    steps = list(work.script)
    for _ in range(chance.randint(1, 3)):
        steps.insert(chance.randint(0, len(steps)), ("trigger", float(chance.random() < 0.6)))
    made_at = chance.uniform(0.0, TROUBLE_S) if chance.random() < 0.5 else None
    return replace(work, script=tuple(steps), run_made_at=made_at)
