"""A reader of many logs is told what has changed, and jobs are looked for only when some have changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from edge_mqtt.broker_bridge.dispatch.change_feed import REMEMBERED, ChangeFeed
from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.interface import Ledger
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.logs import tail_service
from edge_mqtt.broker_bridge.logs.completeness import Completeness
from edge_mqtt.broker_bridge.logs.store import LogStore
from edge_mqtt.broker_bridge.logs.tail_service import TailService
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, LogSelector, TailReply, TailRequest, WorkloadType
from tests.support.scenario_edge_logs import RecordsFromTheFirst

TASKS = 100
P = ParamSpec("P")
T = TypeVar("T")


class CountedFinds(AsyncLedger):
    """Counts how often jobs are looked for, which takes some seconds."""

    finds = 0
    find_s = 0.0

    async def run(self, method: Callable[Concatenate[Ledger, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        if method.__name__ == "find":
            self.finds += 1
            await asyncio.sleep(self.find_s)
        return await super().run(method, *args, **kwargs)


class Scene:
    """A run of a hundred mapped tasks, its logs and somebody who reads them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run_state = "running"
        self.now = 1000.0
        self.change_feed = ChangeFeed()
        self._ledger = MemoryLedger()
        self._numbers = iter(range(1_000_000))
        self.ledger = CountedFinds(self._ledger)
        self.service = TailService(
            LogStore(folder),
            RecordsFromTheFirst(Dispatcher(DispatchSettings()).view, self.ledger),
            self.ledger,
            runs=self,
            change_feed=self.change_feed,
            completeness=Completeness(lambda _: True, clock=self.clock),
            clock=self.clock,
        )
        for index in range(TASKS):
            self.put(job(index))
            self.write(index, b"begins\n")

    def clock(self) -> float:
        return self.now

    def put(self, job: Job) -> None:
        self._ledger.commit([job])
        self.change_feed.notify()

    def write(self, index: int, data: bytes) -> None:
        with (self.folder / path(index)).open("ab") as file:
            file.write(data)
        self.change_feed.notify([path(index)])

    async def get_state(self, dag_id: str, run_id: str) -> str:
        return self.run_state

    async def find_problem(self, dag_id: str, run_id: str | None, task_id: str | None) -> str | None:
        return None

    async def ask(self, continues: str = "", **fields: Any) -> TailReply:
        request = TailRequest(
            request_id=f"r{next(self._numbers)}",
            selector=LogSelector(dag_id="etl", run_id="r"),
            continues=continues,
            **{"wait_s": 20.0} | fields,
        )
        return await self.service.answer(request)


def path(index: int) -> str:
    return f"map_index={index}.log"


def job(index: int) -> Job:
    spec = JobSpec(
        job_id=JobId(f"j{index}"),
        type=WorkloadType.TASK,
        queue="q",
        dag_id="etl",
        run_id="r",
        task_id="t",
        map_index=index,
        log_path=path(index),
    )
    return Job(
        spec=spec,
        executor=ExecutorName("e"),
        state=CentralJobState.RUNNING,
        worker=WorkerName("w"),
        sequence=index + 1,
        lease_s=60.0,
        log_base=0,
    )


def play(folder: Path, scenario: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        scene = Scene(folder)
        try:
            await asyncio.wait_for(scenario(scene), 20)
        finally:
            await scene.ledger.close()

    asyncio.run(run())


def test_reader_of_many_logs_is_told_only_of_the_one_that_has_grown(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        first = await scene.ask()
        assert len(first.streams) == len(first.slices) == TASKS
        finds = scene.ledger.finds
        scene.write(7, b"goes on\n")
        second = await scene.ask(first.request_id)
        assert (second.streams, second.body) == ((), b"goes on\n")
        assert [(part.stream_id, part.offset) for part in second.slices] == [(path(7), 7)]
        assert scene.ledger.finds == finds

    play(tmp_path, scenario)


def test_logs_are_told_in_the_order_in_which_their_jobs_were_queued(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for index in range(0, TASKS, 2):
            # Of these it is waited for an end, of the others not.
            scene.put(replace(job(index), state=CentralJobState.FINISHED))
        reply = await scene.ask()
        assert [stream.map_index for stream in reply.streams] == list(range(TASKS))
        assert [part.stream_id for part in reply.slices] == [path(index) for index in range(TASKS)]

    play(tmp_path, scenario)


def test_reader_is_told_of_a_job_that_has_changed(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        first = await scene.ask()
        scene.put(replace(job(3), state=CentralJobState.FINISHED, log_size=7))
        scene.put(job(TASKS))
        scene.write(TASKS, b"one more\n")
        second = await scene.ask(first.request_id)
        assert {(stream.map_index, stream.complete) for stream in second.streams} == {(3, True), (TASKS, False)}
        assert second.body == b"one more\n"

    play(tmp_path, scenario)


def test_run_is_over_only_when_all_of_its_jobs_have_been_looked_at_after_its_end(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        first = await scene.ask()
        for index in range(TASKS):
            scene.put(replace(job(index), state=CentralJobState.FINISHED, log_size=7))
        scene.run_state = "success"
        second = await scene.ask(first.request_id)
        assert second.ended
        assert all(stream.complete for stream in second.streams)
        assert len(second.streams) == TASKS

    play(tmp_path, scenario)


def test_reader_whom_the_bridge_has_forgotten_is_told_so_and_goes_on_where_it_was(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        assert (await scene.ask("of the bridge before")).forgotten
        first = await scene.ask()
        scene.now += tail_service.KEEP_READER_S + 1
        assert (await scene.ask(first.request_id)).forgotten
        scene.write(7, b"goes on\n")
        positions = {part.stream_id: part.offset + part.length for part in first.slices}
        whole = await scene.ask(positions=positions, cursor=first.cursor)
        assert (whole.body, len(whole.streams)) == (b"goes on\n", TASKS)

    play(tmp_path, scenario)


def test_readers_that_ask_once_are_not_remembered_for_ever(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        for _ in range(5):
            await scene.ask()
            scene.now += tail_service.KEEP_READER_S + 1
        assert len(scene.service._readers) == 1

    play(tmp_path, scenario)


def test_request_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        first = await scene.ask()
        waiting = asyncio.create_task(scene.ask(first.request_id))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (await scene.ask(first.request_id)).forgotten

    play(tmp_path, scenario)


def test_jobs_are_not_looked_for_again_at_once_when_that_took_long(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        scene.service._clock = time.monotonic
        scene.ledger.find_s = 0.01
        first = await scene.ask()
        finds = scene.ledger.finds
        waiting = asyncio.create_task(scene.ask(first.request_id))
        for _ in range(50):
            scene.change_feed.notify()
            await asyncio.sleep(0)
        scene.put(job(TASKS))
        scene.write(TASKS, b"one more\n")
        assert (await waiting).body == b"one more\n"
        assert scene.ledger.finds - finds < 5

    play(tmp_path, scenario)


def test_which_logs_have_grown_is_known_for_a_while() -> None:
    changes = ChangeFeed()
    assert changes.grown_since(0) == frozenset()
    changes.notify(["a"])
    changes.notify()
    changes.notify(["b", "c"])
    assert changes.grown_since(0) == frozenset({"a", "b", "c"})
    assert changes.grown_since(1) == frozenset({"b", "c"})
    assert (changes.version, changes.jobs_version) == (3, 2)
    for _ in range(REMEMBERED):
        changes.notify(["d"])
    assert changes.grown_since(2) is None
    assert changes.grown_since(3) == frozenset({"d"})
