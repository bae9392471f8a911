"""What is asked of the ledger together is asked once, and everybody gets the jobs that matter to him."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.dispatch.ledger.async_ledger import AsyncLedger
from edge_mqtt.broker_bridge.dispatch.ledger.memory import MemoryLedger
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, WorkloadType


def job(name: str, sequence: int, log_path: str) -> Job:
    spec = JobSpec(job_id=JobId(name), type=WorkloadType.TASK, queue="q", log_path=log_path)
    return Job(spec=spec, executor=ExecutorName("e"), lease_s=935.0, sequence=sequence)


def ids(jobs: list[Job]) -> list[str]:
    return [one.id for one in jobs]


def ledger_test(test: Callable[[AsyncLedger], Awaitable[None]]) -> None:
    async def run() -> None:
        memory = MemoryLedger()
        memory.commit([job("first", 1, "a.log"), job("retry", 2, "a.log"), job("alone", 3, "b.log")])
        ledger = AsyncLedger(memory)
        try:
            await test(ledger)
        finally:
            await ledger.close()

    asyncio.run(run())


def test_the_other_jobs_of_a_log_are_told_without_the_one_that_is_asked_for() -> None:
    async def test(ledger: AsyncLedger) -> None:
        assert ids(await ledger.same_log("a.log", JobId("retry"))) == ["first"]
        assert ids(await ledger.same_log("b.log", JobId("alone"))) == []

    ledger_test(test)


def test_two_jobs_of_one_log_that_are_asked_for_together_are_each_told_of_the_other() -> None:
    async def test(ledger: AsyncLedger) -> None:
        first, retry, alone = await asyncio.gather(
            ledger.same_log("a.log", JobId("first")),
            ledger.same_log("a.log", JobId("retry")),
            ledger.same_log("b.log", JobId("alone")),
        )
        assert "retry" in ids(first)
        assert "first" in ids(retry)
        assert ids(alone) == []

    ledger_test(test)
