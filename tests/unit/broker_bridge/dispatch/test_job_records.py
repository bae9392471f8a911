"""What is asked of the ledger together is asked once, and everybody gets the jobs that matter to him."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from edge_mqtt.broker_bridge.dispatch.core.dispatcher import Dispatcher, DispatchSettings
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.job_records import JobRecords
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, WorkloadType


def job(name: str, sequence: int, log_path: str) -> Job:
    spec = JobSpec(job_id=JobId(name), type=WorkloadType.TASK, queue="q", log_path=log_path)
    return Job(spec=spec, executor=ExecutorName("e"), lease_s=935.0, sequence=sequence)


def ids(jobs: list[Job]) -> list[str]:
    return [one.id for one in jobs]


def records_test(test: Callable[[JobRecords], Awaitable[None]]) -> None:
    async def run() -> None:
        memory = MemoryLedger()
        memory.commit([job("first", 1, "a.log"), job("retry", 2, "a.log"), job("alone", 3, "b.log")])
        ledger = AsyncLedger(memory)
        try:
            await test(JobRecords(Dispatcher(DispatchSettings()).view, ledger))
        finally:
            await ledger.close()

    asyncio.run(run())


def test_the_other_jobs_of_a_log_are_told_without_the_one_that_is_asked_for() -> None:
    async def test(records: JobRecords) -> None:
        assert ids(await records.find_of_log("a.log", JobId("retry"))) == ["first"]
        assert ids(await records.find_of_log("b.log", JobId("alone"))) == []

    records_test(test)


def test_two_jobs_of_one_log_that_are_asked_for_together_are_each_told_of_the_other() -> None:
    async def test(records: JobRecords) -> None:
        first, retry, alone = await asyncio.gather(
            records.find_of_log("a.log", JobId("first")),
            records.find_of_log("a.log", JobId("retry")),
            records.find_of_log("b.log", JobId("alone")),
        )
        assert "retry" in ids(first)
        assert "first" in ids(retry)
        assert ids(alone) == []

    records_test(test)


def test_a_job_that_memory_does_not_have_is_read_from_the_ledger() -> None:
    async def test(records: JobRecords) -> None:
        found = await records.get(JobId("retry"))
        assert found is not None
        assert found.sequence == 2
        assert await records.get(JobId("unknown")) is None

    records_test(test)


def test_the_next_number_is_the_oldest_held_job_s_or_follows_the_last_one() -> None:
    async def test(records: JobRecords) -> None:
        assert await records.next_sequence() == 4

    records_test(test)

    async def with_a_held_job() -> None:
        dispatcher, ledger = Dispatcher(DispatchSettings()), AsyncLedger(MemoryLedger())
        held = replace(job("held", 7, "a.log"), state=CentralJobState.RUNNING, worker=WorkerName("w"))
        dispatcher.load([held, job("waits", 2, "b.log")], 0.0)
        assert await JobRecords(dispatcher.view, ledger).next_sequence() == 7
        await ledger.close()

    asyncio.run(with_a_held_job())
