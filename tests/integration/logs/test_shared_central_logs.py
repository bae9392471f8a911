"""Tasks that share a central file while they run on several workers: each line is there once, whole, and live."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, TailRequest
from tests.support.scenario_bridge_logs import PATH, Centre, centre_test

JOBS = 3
LINES = 12
WORKERS = tuple(WorkerName(f"w{number}") for number in range(JOBS))
LOGS = tuple(b"".join(b"%d says %d\n" % (number, line) for line in range(LINES)) for number in range(JOBS))


class World:
    """Mapped tasks, a worker each, whose log files have one name."""

    def __init__(self, folder: Path) -> None:
        self.centre = Centre(folder)

    async def start(self, number: int) -> None:
        """Begin with a job, whatever the order in which they were queued."""
        if not self.centre.records.ledger.get([JobId(str(number))]):
            self.centre.records.put(str(number), number + 1, map_index=number, worker=WORKERS[number])

    async def ship(self, number: int, lines: int = 2) -> None:
        """Receive some lines of what has not been acknowledged of a job."""
        await self.start(number)
        done = self.centre.acked.get(str(number), 0)
        rest = LOGS[number][done:].splitlines(keepends=True)
        if rest:
            self.centre.ship(str(number), done, b"".join(rest[:lines]), WORKERS[number])

    async def tear(self, number: int) -> None:
        """Receive a line of a job but for its end."""
        await self.start(number)
        done = self.centre.acked.get(str(number), 0)
        if done < len(LOGS[number]):
            self.centre.ship(str(number), done, LOGS[number][done : done + 4], WORKERS[number])

    async def repeat(self, number: int) -> None:
        """Receive once more what has come of a job."""
        await self.start(number)
        self.centre.ship(str(number), 0, LOGS[number][: self.centre.acked.get(str(number), 0) + 9], WORKERS[number])

    async def end(self, number: int) -> None:
        """Store a job's result."""
        await self.start(number)
        self.centre.records.change(str(number), state=CentralJobState.FINISHED, log_size=len(LOGS[number]))

    async def settle(self, _: int) -> None:
        """Store what came since the last time together."""
        await self.centre.settled()

    async def restart(self, _: int) -> None:
        """Stop the bridge and start it again."""
        await self.centre.settled()
        await self.begin_again()

    async def begin_again(self) -> None:
        """Start a bridge that knows nothing but the ledger; workers are told what it has."""
        await self.centre.restart()
        for number in range(JOBS):
            await self.start(number)
            job = self.centre.records.get(str(number))
            self.centre.acked[str(number)] = await self.centre.allocator.count_stored(job.id)

    async def kill(self, written: int) -> None:
        """Kill the bridge when it writes next, after so many bytes."""
        self.centre.doom(written)
        for number in range(JOBS):
            await self.ship(number)
        await self.centre.died()
        await self.begin_again()


def play(folder: Path, steps: list[tuple[str, int]]) -> bytes:
    async def run() -> bytes:
        world = World(folder)
        await world.centre.run()
        try:
            for name, number in steps:
                await getattr(world, name)(number)
            for _ in range(JOBS):
                for number in range(JOBS):
                    await world.ship(number, LINES)
                    await world.centre.settled()
            assert [world.centre.acked[str(number)] for number in range(JOBS)] == [len(log) for log in LOGS]
            return world.centre.text()
        finally:
            await world.centre.stop()

    return asyncio.run(run())


ORDINARY = st.tuples(
    st.sampled_from(["start", "ship", "ship", "ship", "tear", "repeat", "end", "settle", "settle", "restart"]),
    st.integers(0, JOBS - 1),
)
STEP = ORDINARY | ORDINARY | ORDINARY | st.tuples(st.just("kill"), st.sampled_from([0, 1, 5, 20, 100]))


@given(st.lists(STEP, max_size=30))
@example(
    [("ship", 0), ("settle", 0), ("ship", 1), ("settle", 0), ("kill", 5), ("ship", 0), ("settle", 0), ("kill", 1)]
)
@example([("ship", 0), ("settle", 0), ("ship", 1), ("settle", 0), ("restart", 0), ("ship", 0)])
@settings(max_examples=60, deadline=None)
def test_every_line_of_every_job_is_there_once_and_whole(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    lines = play(tmp_path_factory.mktemp("logs"), steps).splitlines(keepends=True)
    for number, log in enumerate(LOGS):
        assert b"".join(line for line in lines if line.startswith(b"%d says" % number)) == log
    assert len(lines) == JOBS * LINES


def test_jobs_take_turns_while_they_run(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        for number in range(2):
            centre.records.put(str(number), number + 1, map_index=number, worker=WORKERS[number])
        for turn in range(3):
            for number in (1, 0):
                data = b"%d in turn %d\n" % (number, turn)
                assert await centre.shipped(str(number), turn * len(data), data, WORKERS[number]) == (
                    (turn + 1) * len(data)
                )
        turns = [b"%d in turn %d\n" % (number, turn) for turn in range(3) for number in (1, 0)]
        assert centre.text() == b"".join(turns)

    centre_test(tmp_path, test)


def test_a_line_without_an_end_is_not_broken_into_and_holds_up_nobody_for_ever(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        for number in range(2):
            centre.records.put(str(number), number + 1, map_index=number, worker=WORKERS[number])
        assert await centre.shipped("0", 0, b"half a", WORKERS[0]) == 6
        centre.ship("1", 0, b"another\n", WORKERS[1])
        await centre.settled()
        assert "1" not in centre.acked
        centre.ship("0", 6, b" line\n", WORKERS[0])
        assert {(await centre.ack()).job_id for _ in range(2)} == {"0", "1"}
        assert centre.text() == b"half a line\nanother\n"

    centre_test(tmp_path, test)


def test_a_follower_of_one_job_is_told_that_it_is_complete_when_all_that_write_its_file_have_ended(
    tmp_path: Path,
) -> None:
    async def test(centre: Centre) -> None:
        for number in range(2):
            centre.records.put(str(number), number + 1, map_index=number, worker=WORKERS[0])
        await centre.shipped("0", 0, b"of both\n", WORKERS[0])
        # On its worker, what it wrote is part of the other's log.
        centre.records.change("1", state=CentralJobState.FINISHED, log_size=0)

        async def is_complete(request_id: str) -> bool:
            selector = LogSelector(dag_id="d", run_id="r", task_id="t", map_index=1)
            reply = await centre.tail.answer(TailRequest(request_id=request_id, selector=selector, wait_s=0.0))
            (stream,) = reply.streams
            assert (stream.stream_id, stream.map_index, reply.body) == (PATH, 1, b"of both\n")
            return stream.complete

        assert not await is_complete("before")
        centre.records.change("0", state=CentralJobState.FINISHED, log_size=8)
        assert await is_complete("after")

    centre_test(tmp_path, test)
