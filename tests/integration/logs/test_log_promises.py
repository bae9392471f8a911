"""Whatever order, repetition, loss, crash and absence log chunks come in, every byte stands where it belongs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.logs import notices
from edge_mqtt.broker_bridge.logs.completeness import LOG_WAIT_S, OBSERVATION_S
from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from tests.support.scenario_bridge_logs import Centre

WORKERS = (WorkerName("v"), WorkerName("w"))
#: What each job logs: no two bytes in a row are alike, and none could begin a line of the bridge's. The first two are
#: longer than such a line.
LOGS = tuple(
    bytes(letter + number % 7 for number in range(size))
    for letter, size in zip(b"AHOV", (300, 400, 0, 30), strict=True)
)
JOBS = range(len(LOGS))
CHUNK_BYTES = 20
LEASE_S = 2 * LOG_WAIT_S
#: Looks at a log after which it is given up in any case, each of its jobs and workers being waited for.
LOOKS = int(LEASE_S / OBSERVATION_S) + 2


class World:
    """One file, the jobs of one task that write it one after the other, and their workers."""

    def __init__(self, folder: Path) -> None:
        self.centre = Centre(folder)
        self.lost: set[int] = set()
        self.next = 0

    # ------------------------------------------------------------ what happens

    async def start(self, _: int) -> None:
        """Begin with the next job; the one before it may not be over yet."""
        if self.next < len(LOGS):
            worker = WORKERS[self.next % len(WORKERS)]
            self.centre.records.put(str(self.next), self.next + 1, worker=worker, lease_s=LEASE_S)
            self.next += 1

    async def end(self, number: int) -> None:
        """Store a job's result."""
        if number < self.next and self.job(number).state is CentralJobState.RUNNING:
            self.centre.records.change(str(number), state=CentralJobState.FINISHED, log_size=len(LOGS[number]))

    async def lose(self, number: int) -> None:
        """Give a job up."""
        if number < self.next and self.job(number).state is CentralJobState.RUNNING:
            self.lost.add(number)
            self.centre.records.change(str(number), state=CentralJobState.FINISHED)

    async def ship(self, at: int) -> None:
        """Receive a few bytes of a job, from anywhere in it."""
        self.send(at % len(LOGS), at // len(LOGS) * CHUNK_BYTES // 2)

    async def go_on(self, number: int) -> None:
        """Receive what comes behind what has been acknowledged of a job."""
        self.send(number, self.centre.acked.get(str(number), 0))

    async def bring(self, number: int) -> None:
        """Receive all that has not been acknowledged of a job."""
        self.send(number, self.centre.acked.get(str(number), 0), len(LOGS[number]))

    def send(self, number: int, offset: int, size: int = CHUNK_BYTES) -> None:
        data = LOGS[number][offset : offset + size]
        if number < self.next and data:
            self.centre.ship(str(number), offset, data, self.job(number).worker or WORKERS[0])

    async def settle(self, _: int) -> None:
        """Store what came since the last time together."""
        await self.centre.settled()

    async def wait(self, looks: int) -> None:
        """Let time pass, while the workers that are there ship what they have."""
        for _ in range(looks):
            self.centre.now += OBSERVATION_S
            await self.ship_rest()

    async def leave(self, number: int) -> None:
        """Let a worker go, or come back."""
        self.centre.away ^= {WORKERS[number % 2]}

    async def restart(self, _: int) -> None:
        """Stop the bridge and start it again; workers are told what it has."""
        await self.centre.restart()
        for number in range(self.next):
            self.centre.acked[str(number)] = await self.centre.allocator.count_stored(self.job(number).id)

    async def kill(self, written: int) -> None:
        """Kill the bridge when it writes next, after so many bytes."""
        self.centre.doom(written)
        self.centre.now += OBSERVATION_S
        for number in range(self.next):
            if self.job(number).worker not in self.centre.away:
                await self.bring(number)
        await self.centre.died()
        await self.restart(0)

    # ------------------------------------------------------------ what is true then

    def job(self, number: int) -> Job:
        return self.centre.records.get(str(number))

    async def ship_rest(self) -> None:
        """Let the workers that are there ship what they have, as far as the bridge takes it."""
        for number in range(self.next):
            if self.job(number).worker not in self.centre.away:
                await self.bring(number)
        await self.centre.settled()

    async def check(self) -> list[bytes]:
        """Check that every byte of the file is in its place; return what is there of every job."""
        text = self.centre.text()
        begun = [number for number in range(self.next) if self.job(number).log_base is not None]
        bases = [self.job(number).log_base or 0 for number in begun]
        assert bases == sorted(bases)
        here = [b""] * len(LOGS)
        for number, base, end in zip(begun, bases, [*bases[1:], len(text)], strict=False):
            part = text[base:end]
            here[number] = part[: length(part, LOGS[number])]
            lines_of_ours(part[len(here[number]) :])
            closed = number != begun[-1] and self.job(number).log_size is not None
            # A worker that knows of more as stored than there is of its job would keep back what another still needs.
            assert await self.centre.allocator.count_stored(self.job(number).id) <= (
                len(LOGS[number]) if closed else len(part)
            )
            if number == begun[-1]:
                assert self.centre.acked.get(str(number), 0) <= len(here[number])
        if begun:
            lines_of_ours(text[: bases[0]])
        return here


def length(part: bytes, log: bytes) -> int:
    """Return how many bytes of ``log`` are at the beginning of ``part``."""
    wrong = (number for number in range(len(log)) if part[number : number + 1] != log[number : number + 1])
    return next(wrong, len(log))


def lines_of_ours(part: bytes) -> None:
    """Check that there is nothing but lines of the bridge's own, and what is left of one when it was killed."""
    begin = b'{"timestamp": "'
    for line in part.split(b"\n"):
        assert line.startswith(begin[: len(line)])
        assert not line.endswith(b"}") or json.loads(line)["logger"] == notices.LOGGER


def play(folder: Path, steps: list[tuple[str, int]], *, complete: bool) -> None:
    async def run() -> None:
        world = World(folder)
        await world.centre.run()
        try:
            for name, number in steps:
                await getattr(world, name)(number)
                if name != "ship":
                    await world.centre.settled()
                    # Only now: what is being written meanwhile would be seen in part.
                    await world.check()
            await finish(world, complete=complete)
        finally:
            await world.centre.stop()

    asyncio.run(run())


async def finish(world: World, *, complete: bool) -> None:
    """Let everything end; whoever is there can ship everything then, whatever became of the others."""
    if complete:
        world.centre.away.clear()
    while world.next < len(LOGS):
        await world.start(0)
    for number in JOBS:
        await world.end(number)
    for _ in range(len(LOGS) * (1 if complete else LOOKS)):
        await world.ship_rest()
        if not complete:
            world.centre.now += OBSERVATION_S
    here = await world.check()
    for number in JOBS:
        if world.job(number).worker not in world.centre.away:
            assert world.centre.acked.get(str(number), 0) >= len(LOGS[number])
    if complete:
        assert here == list(LOGS)
        assert world.centre.text() == b"".join(LOGS)


def some(name: str, most: int = len(LOGS) - 1) -> st.SearchStrategy[tuple[str, int]]:
    return st.tuples(st.just(name), st.integers(0, most))


SHIP = st.one_of(some("ship", len(LOGS) * 2 * max(map(len, LOGS)) // CHUNK_BYTES), some("go_on"), some("bring"))
ORDINARY: Any = st.one_of(
    some("start"), some("end"), SHIP, SHIP, some("settle"), some("restart", 0), some("leave", 1)
)
KILL = st.tuples(st.just("kill"), st.sampled_from([0, 1, 5, 100, 10_000]))
ANYTHING: Any = st.one_of(
    some("start"), some("end"), SHIP, SHIP, some("leave", 1), KILL, some("lose"), some("wait", LOOKS)
)


@given(st.lists(ORDINARY, max_size=30))
@settings(max_examples=100, deadline=None)
def test_the_central_file_equals_the_workers_when_they_return_in_time(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    play(tmp_path_factory.mktemp("logs"), [("start", 0), *steps], complete=True)


#: Looks at the log of a worker that is away until the next one gives it up.
ALMOST: int = LOOKS - 2
INCOMPLETE = [("ship", 0), ("end", 0), ("leave", 0), ("start", 0), ("wait", ALMOST)]


@given(st.lists(ANYTHING, max_size=25))
@example([("ship", 0), ("lose", 0), ("start", 0), ("bring", 1), ("restart", 0)])
@example([*INCOMPLETE, ("kill", 10_000), ("leave", 0)])
@example([*INCOMPLETE, ("kill", 5), ("leave", 0), ("lose", 1), ("restart", 0)])
@settings(max_examples=100, deadline=None)
def test_no_byte_ever_stands_in_a_wrong_place_and_no_log_holds_up_the_others_for_ever(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    play(tmp_path_factory.mktemp("logs"), [("start", 0), *steps], complete=False)
