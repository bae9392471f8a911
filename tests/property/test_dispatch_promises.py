"""Promises 1 and 2 of the dispatcher, whatever is lost, repeated, reordered, cut off or killed.

1. An accepted job is never lost and yields exactly one final event to Airflow.
2. At most one process ever runs a job's user code.

The last tests break a rule each and expect these checks to notice.
"""

from __future__ import annotations

import random
import re
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from edge_mqtt.broker_bridge.dispatch.core import completion, events, lifecycle, reconcile
from edge_mqtt.broker_bridge.dispatch.core.batch import Batch
from edge_mqtt.broker_bridge.dispatch.core.draft import Draft
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.core.state import DispatchState
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from tests.support.fake_executors import Executor, Party
from tests.support.fake_workers import Worker
from tests.support.scenario_dispatch_world import BatchEnd, World, task

T = TypeVar("T")

#: Hypothesis chooses what kind of thing happens and how much of it; a seed that it draws chooses the rest. Drawn one
#: by one, the choices are so often the same small ones that nothing is going on when trouble comes.
SEEDS = st.integers(0, 2**32)
#: What a world does all day, by weight.
DAILY = (
    *("submit", "submit", "launch", "launch", "launch", "ask", "end"),
    *("message", "message", "message", "batch", "flow", "flow", "time", "rethink"),
)
TROUBLE = ("cut", "cut", "cut", "bridge", "executor", "take over", "worker", "worker", "batch", "batch", "lose")
BAD_BATCHES = [batch for batch in BatchEnd if batch is not BatchEnd.GOOD]
MOST_JOBS = 12
#: Around the times that the dispatcher's settings name.
PAUSES_S = [6.0, 21.0, 50.0, 101.0]


class Promises(RuleBasedStateMachine):
    """Everything that can happen, in any order. Connections keep order and lose nothing while they last."""

    tidy = True
    world_class: type[World] = World

    @initialize()
    def begin(self) -> None:
        """Start with everybody connected."""
        self.world = self.world_class(tidy=self.tidy)
        for party in self.world.parties:
            party.connect()
        self.world.flow()

    def teardown(self) -> None:
        """Heal the world: every promise is due now."""
        if hasattr(self, "world"):
            self.world.heal()
            self.world.check_quiet()

    def _party(self, pick: int) -> Party:
        return self.world.parties[pick % len(self.world.parties)]

    def _worker(self, pick: int) -> Worker:
        return self.world.workers[pick % len(self.world.workers)]

    def _executor(self, pick: int) -> Executor:
        return self.world.executors[pick % len(self.world.executors)]

    # ------------------------------------------------------------ daily life

    @rule(seed=SEEDS, steps=st.integers(1, 25))
    def live(self, seed: int, steps: int) -> None:
        """Jobs come, messages travel, processes start and end."""
        chance = random.Random(seed)
        for _ in range(steps):
            getattr(self, f"_{chance.choice(DAILY)}")(chance.randrange(10_000))

    def _take(self, messages: list[T], pick: int) -> T:
        """Take the oldest message; in disorder take any, and perhaps leave it there to come again."""
        if self.tidy:
            return messages.pop(0)
        place = pick % len(messages)
        return messages[place] if pick % 7 == 0 else messages.pop(place)

    def _message(self, pick: int) -> None:
        party = self._party(pick)
        if party.link.up and pick // 4 % 2:
            self.world.decide([self._take(party.link.up, pick // 8)])
        elif party.link.down:
            party.receive(self._take(party.link.down, pick // 8))

    def _batch(self, pick: int, mode: BatchEnd = BatchEnd.GOOD) -> None:
        batch: list[events.Event] = []
        for party in self.world.parties:
            taken = [self._take(party.link.up, pick // 8) for _ in range(min(pick % 5, len(party.link.up)))]
            batch.extend(taken)
        self.world.decide(batch, mode)

    def _flow(self, _pick: int) -> None:
        self.world.flow()

    def _submit(self, pick: int) -> None:
        executor = self._executor(pick)
        if executor.alive and len(self.world.airflow) < MOST_JOBS:
            queue = "qqr"[pick // 2 % 3]
            executor.submit(task(self.world.count(), queue, slots=1 + pick // 8 % 4, priority=1 + pick // 32 % 2))

    def _launch(self, pick: int) -> None:
        startable = [(worker, job_id) for worker in self.world.workers for job_id in worker.waiting() if worker.alive]
        if startable:
            worker, job_id = startable[pick % len(startable)]
            worker.ask(worker.launch(job_id))

    def _ask(self, pick: int) -> None:
        worker = self._worker(pick)
        asking = [process for process in worker.processes() if not process.granted]
        if worker.alive and asking:
            worker.ask(asking[pick // 2 % len(asking)])

    def _end(self, pick: int) -> None:
        worker = self._worker(pick)
        processes = worker.processes()
        if processes:
            worker.end(processes[pick // 2 % len(processes)], (0, 1, None)[pick // 16 % 3])

    def _time(self, pick: int) -> None:
        self.world.advance(pick % 15)
        if self._worker(pick).link.connected:
            self._worker(pick).presence()

    def _rethink(self, pick: int) -> None:
        executor, worker = self._executor(pick), self._worker(pick)
        running = self.world.dispatcher.view.running_jobs()
        kind = ("revoke", "end", "refuse", "refuse")[pick // 4 % 4]
        if kind == "revoke" and executor.alive and executor.waiting:
            executor.revoke(sorted(executor.waiting)[pick // 16 % len(executor.waiting)])
        elif kind == "end" and running:
            self.world.decide([events.TaskEnded(job_id=running[pick // 16 % len(running)].id, reason="cleared")])
        elif kind == "refuse" and worker.alive and worker.waiting():
            worker.refuse(worker.waiting()[0], permanent=pick // 64 % 4 == 0, takes_none=pick // 16 % 2 == 0)

    # ------------------------------------------------------------ trouble

    @rule(seconds=st.sampled_from(PAUSES_S))
    def wait(self, seconds: float) -> None:
        """Nothing happens for long."""
        self.world.advance(seconds)

    @rule(seed=SEEDS)
    def trouble(self, seed: int) -> None:
        """A connection breaks, a program dies, a ledger refuses, messages are lost."""
        chance = random.Random(seed)
        kind, pick = chance.choice(TROUBLE), chance.randrange(10_000)
        if kind == "cut":
            self._party(pick).disconnect()
        elif kind == "bridge":
            self.world.crash_bridge()
        elif kind == "executor":
            self._executor(pick).restart()
        elif kind == "take over":
            self._take_over(self._executor(pick), self._executor(pick + 1))
        elif kind == "worker":
            how = chance.choice(["kill", "reboot", "forget", "wipe", "new disk"])
            self._crash_worker(self._worker(pick), how)
        elif kind == "batch":
            self._batch(pick, chance.choice(BAD_BATCHES))
        elif not self.tidy:
            self._lose(chance)

    def _take_over(self, dead: Executor, heir: Executor) -> None:
        if heir.alive:
            dead.restart()
            dead.alive = False
            dead.waiting.clear()
            heir.adopt_from(dead)

    def _crash_worker(self, worker: Worker, how: str) -> None:
        if worker.alive:
            worker.crash(reboot=how == "reboot", forget=how == "forget", wipe=how in ("wipe", "new disk"))
            if how == "new disk":
                worker.home = f"disk {self.world.count()}"

    def _lose(self, chance: random.Random) -> None:
        for party in self.world.parties:
            messages: list[Any] = chance.choice([party.link.up, party.link.down])
            if messages:
                messages.pop(chance.randrange(len(messages)))

    @precondition(lambda self: self.world.health() < len(self.world.parties))
    @rule(who=st.sampled_from([None, 0, 1, 2, 3, 4]))
    def mend(self, who: int | None) -> None:
        """Everybody or somebody is back."""
        for number, party in enumerate(self.world.parties):
            if who in (None, number):
                if isinstance(party, Worker) and not party.alive:
                    party.restart()
                party.alive = True
                party.connect()


class PromisesInDisorder(Promises):
    """The same over a network that loses, repeats and reorders whatever it likes."""

    tidy = False


BUDGET = settings(max_examples=120, stateful_step_count=50, deadline=None)

TestPromises = Promises.TestCase
TestPromises.settings = BUDGET
TestPromisesInDisorder = PromisesInDisorder.TestCase
TestPromisesInDisorder.settings = BUDGET


# ---------------------------------------------------------------- long walks


def walk(machine: type[Promises], seed: int) -> str | None:
    """Take a random walk without Hypothesis, which is several times faster; return which check failed."""
    chance = random.Random(seed)
    state = machine()
    try:
        state.begin()
        for _ in range(50):
            kind = chance.choice(["live", "live", "trouble", "wait", "mend", "mend"])
            if kind == "live":
                state.live(seed=chance.randrange(2**32), steps=chance.randint(1, 25))
            elif kind == "trouble":
                state.trouble(seed=chance.randrange(2**32))
            elif kind == "wait":
                state.wait(seconds=chance.choice(PAUSES_S))
            else:
                state.mend(who=chance.choice([None, None, 0, 1, 2, 3, 4]))
        state.teardown()
    except AssertionError as failure:
        return str(failure)
    return None


@pytest.mark.parametrize("machine", [Promises, PromisesInDisorder])
def test_promises_hold_on_many_long_walks(machine: type[Promises]) -> None:
    assert {seed: failed for seed in range(500) if (failed := walk(machine, seed)) is not None} == {}


# ---------------------------------------------------------------- broken on purpose


def no_fence(self: DispatchState, _worker: WorkerName, job_id: JobId, _fence: int) -> Job | None:
    """Believe every worker's word about every job that somebody holds."""
    job = self.jobs.get(job_id)
    return None if job is None or job.holder is None else job


def any_starter(job: Job | None, _starter: str) -> str:
    """Permit every process of the holder to start."""
    return lifecycle.NOT_YOURS if job is None else job.cancel_reason or ""


def no_memory(_self: Batch, _event: events.Event) -> tuple[JobId, ...]:
    """Never ask the ledger about a job that memory has forgotten."""
    return ()


def nothing_heard(_draft: Draft, _worker: WorkerName) -> None:
    """Let no message but a presence renew a lease."""


def lose_at_once(draft: Draft, job: Job, _contact: float) -> None:
    """Believe that what another machine of the name ran does not run any more."""
    if job.state is CentralJobState.ASSIGNED:
        completion.requeue_job(draft, job)
    else:
        completion.lose_job(draft, job, "another machine has its name")


class SpeaksFirst(World):
    """A bridge that speaks before it commits."""

    speaks_first = True


class SpeaksFirstPromises(Promises):
    """Promises of a bridge that speaks before it commits."""

    world_class = SpeaksFirst


@pytest.mark.parametrize(
    ("machine", "rule_of", "broken", "noticed"),
    [
        (PromisesInDisorder, (DispatchState, "find_assignment"), no_fence, "is said to have ended, and runs"),
        (PromisesInDisorder, (lifecycle, "_refusal"), any_starter, "runs twice"),
        (PromisesInDisorder, (Batch, "missing"), no_memory, "was accepted, and is unknown"),
        (Promises, (Draft, "renew_lease"), nothing_heard, "the lease of .* ended while its worker lets"),
        (
            Promises,
            (reconcile, "_orphan_or_requeue"),
            lose_at_once,
            "is said to be lost: another machine has its name",
        ),
        (SpeaksFirstPromises, None, None, "was accepted, and is unknown"),
        (SpeaksFirstPromises, None, None, "runs twice"),
    ],
    ids=[
        "no fence",
        "any starter",
        "no memory",
        "nothing heard",
        "lose at once",
        "speaks first: lost",
        "speaks first: twice",
    ],
)
def test_a_broken_rule_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
    machine: type[Promises],
    rule_of: tuple[Any, str] | None,
    broken: Any,
    noticed: str,
) -> None:
    if rule_of is not None:
        monkeypatch.setattr(*rule_of, broken)
    assert any(re.search(noticed, walk(machine, seed) or "") for seed in range(3000))
