"""Logs come in from workers in pieces, are stored in order across deferrals, and are read while they grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.changes import Changes
from edge_mqtt.broker_bridge.dispatch.core.model import Job, JobState
from edge_mqtt.broker_bridge.dispatch.ledger import LedgerFull
from edge_mqtt.broker_bridge.dispatch.ledger_memory import MemoryLedger
from edge_mqtt.broker_bridge.logs import intake as intake_module
from edge_mqtt.broker_bridge.logs.intake import LogIntake
from edge_mqtt.broker_bridge.logs.store import LogStore
from edge_mqtt.broker_bridge.logs.tail import TailService
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    JobSpec,
    LogAck,
    LogChunk,
    LogSelector,
    TailRequest,
    WorkloadType,
)

WORKER = WorkerName("w")
PATH = "dag_id=d/run_id=r/task_id=t/attempt=1.log"


class Records:
    """Jobs as the service shows them."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()

    def put(self, job_id: str, sequence: int, **changes: object) -> None:
        spec = JobSpec(
            job_id=JobId(job_id),
            type=WorkloadType.TASK,
            queue="q",
            dag_id="d",
            run_id="r",
            task_id="t",
            try_number=1,
            log_path=PATH,
        )
        job = Job(spec=spec, executor=ExecutorName("e"), state=JobState.RUNNING, worker=WORKER, sequence=sequence)
        self.ledger.commit([replace(job, **changes)])  # type: ignore[arg-type]

    async def record(self, job_id: JobId) -> Job | None:
        return next(iter(self.ledger.get([job_id])), None)

    async def same_log(self, log_path: str) -> list[Job]:
        return self.ledger.same_log(log_path)

    async def log_opened(self, job_id: JobId, base: int) -> None:
        (job,) = self.ledger.get([job_id])
        self.ledger.commit([replace(job, log_base=base)])

    async def find(self, selector: LogSelector, limit: int) -> list[Job]:
        return self.ledger.find(selector, limit)

    async def newest_run(self, dag_id: str) -> str | None:
        return self.ledger.newest_run(dag_id)

    async def next_sequence(self) -> int:
        return self.ledger.max_sequence() + 1


class Airflow:
    """What Airflow says of runs."""

    def __init__(self) -> None:
        self.run_state = "running"
        self.says: str | None = None

    async def state(self, dag_id: str, run_id: str) -> str:
        return self.run_state

    async def problem(self, dag_id: str, run_id: str | None, task_id: str | None) -> str | None:
        return self.says


class Centre:
    """The parts that handle logs, around one folder."""

    def __init__(self, folder: Path) -> None:
        self.records = Records()
        self.airflow = Airflow()
        self.changes = Changes()
        self.store = LogStore(folder)
        self.acks: asyncio.Queue[tuple[WorkerName, LogAck]] = asyncio.Queue()
        self.intake = LogIntake(
            self.store,
            self.records,
            acknowledge=lambda worker, ack: self.acks.put_nowait((worker, ack)),
            changes=self.changes,
        )
        self.tail = TailService(self.store, self.records, self.airflow, self.changes, clock=time.monotonic)

    def ship(self, job_id: str, offset: int, data: bytes, worker: WorkerName = WORKER) -> None:
        self.intake.put(worker, LogChunk(job_id=JobId(job_id), offset=offset, body=data))

    async def acknowledged(self) -> int:
        _, ack = await asyncio.wait_for(self.acks.get(), 10)
        return ack.offset


def centre_test(folder: Path, test: Callable[[Centre], object]) -> None:
    async def run() -> None:
        centre = Centre(folder)
        task = asyncio.create_task(centre.intake.run())
        try:
            await asyncio.wait_for(test(centre), 20)  # type: ignore[arg-type]
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def request(**changes: object) -> TailRequest:
    fields = {"request_id": "q", "selector": LogSelector(dag_id="d", run_id="r")} | changes
    return TailRequest.model_validate(fields)


def test_chunks_are_acknowledged_by_what_is_on_disk(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        centre.ship("j", 0, b"one\n")
        assert await centre.acknowledged() == 4
        centre.ship("j", 9, b"gap\n")
        assert await centre.acknowledged() == 4
        centre.ship("j", 2, b"e\ntwo\n")
        assert await centre.acknowledged() == 8
        assert (tmp_path / PATH).read_bytes() == b"one\ntwo\n"
        assert await centre.intake.stored(JobId("j")) == 8

    centre_test(tmp_path, test)


def test_a_resumed_task_s_log_waits_until_the_log_before_the_deferral_is_here(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("before", 1)
        centre.records.put("after", 2, worker=WorkerName("v"))
        centre.ship("before", 0, b"one\n")
        assert await centre.acknowledged() == 4
        centre.ship("after", 0, b"too early\n", WorkerName("v"))
        centre.records.put("before", 1, state=JobState.FINISHED, log_base=0, log_size=8)
        centre.ship("after", 0, b"still too early\n", WorkerName("v"))
        centre.ship("before", 4, b"two\n")
        assert await centre.acknowledged() == 8
        centre.ship("after", 0, b"three\n", WorkerName("v"))
        assert await centre.acknowledged() == 6
        assert (tmp_path / PATH).read_bytes() == b"one\ntwo\nthree\n"
        assert await centre.intake.stored(JobId("before")) == 8

    centre_test(tmp_path, test)


def test_a_log_waits_for_every_log_before_it_also_when_one_of_them_has_not_begun(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("first", 1, state=JobState.FINISHED, log_size=4)
        centre.records.put("revoked", 2, state=JobState.FINISHED)
        centre.records.put("third", 3)
        centre.ship("third", 0, b"three\n")
        centre.ship("first", 0, b"one\n")
        assert await centre.acknowledged() == 4
        centre.ship("third", 0, b"three\n")
        assert await centre.acknowledged() == 6
        assert (tmp_path / PATH).read_bytes() == b"one\nthree\n"

    centre_test(tmp_path, test)


def test_a_job_that_has_not_started_stores_nothing_because_another_worker_may_get_it(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, state=JobState.ASSIGNED)
        centre.ship("j", 0, b"too early\n")
        await asyncio.sleep(0.05)
        centre.records.put("j", 1, worker=WorkerName("v"))
        centre.ship("j", 0, b"one\n", WorkerName("v"))
        assert await centre.acknowledged() == 4
        assert (tmp_path / PATH).read_bytes() == b"one\n"

    centre_test(tmp_path, test)


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "MAX_WAITING_BYTES", 100)

    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        for _ in range(50):
            centre.ship("j", 0, b"x" * 60)
        centre.ship("j", 60, b"y" * 60)
        assert await centre.acknowledged() == 60
        assert (tmp_path / PATH).stat().st_size == 60

    centre_test(tmp_path, test)


def test_a_ledger_that_cannot_be_asked_ends_no_intake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "DISK_RETRY_S", 0.01)

    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        asked = asyncio.Event()

        async def refuse(*_: object) -> None:
            asked.set()
            raise LedgerFull("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(centre.records, "log_opened", refuse)
            centre.ship("j", 0, b"one\n")
            await asked.wait()
        centre.ship("j", 0, b"one\n")
        assert await centre.acknowledged() == 4

    centre_test(tmp_path, test)


def test_another_worker_s_log_and_unknown_jobs_are_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        centre.ship("j", 0, b"forged\n", WorkerName("thief"))
        centre.ship("unknown", 0, b"x\n")
        centre.ship("j", 0, b"true\n")
        assert await centre.acknowledged() == 5
        assert (tmp_path / PATH).read_bytes() == b"true\n"

    centre_test(tmp_path, test)
    assert sum("log refused" in record.getMessage() for record in caplog.records) == 2


def test_a_full_disk_acknowledges_nothing_and_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake_module, "DISK_RETRY_S", 0.01)

    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        (tmp_path / "dag_id=d").write_text("a file where a folder should be")
        centre.ship("j", 0, b"one\n")
        await asyncio.sleep(0.1)
        assert centre.acks.empty()
        (tmp_path / "dag_id=d").unlink()
        centre.ship("j", 0, b"one\n")
        assert await centre.acknowledged() == 4

    centre_test(tmp_path, test)


def test_a_reader_gets_what_is_there_and_then_waits_for_more(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        centre.ship("j", 0, b"one\n")
        await centre.acknowledged()
        reply = await centre.tail.answer(request(wait_s=10.0))
        assert (reply.body, reply.ended) == (b"one\n", False)
        waiting = asyncio.create_task(centre.tail.answer(request(wait_s=10.0, positions={PATH: 4})))
        await asyncio.sleep(0)
        centre.ship("j", 4, b"two\n")
        reply = await waiting
        assert reply.body == b"two\n"
        assert [(s.stream_id, s.offset, s.length) for s in reply.slices] == [(PATH, 4, 4)]
        assert [(s.task_id, s.worker, s.complete) for s in reply.streams] == [("t", "w", False)]

    centre_test(tmp_path, test)


def test_a_reader_is_told_the_end_when_the_run_is_over_and_all_is_read(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        centre.ship("j", 0, b"one\n")
        await centre.acknowledged()
        centre.airflow.run_state = "success"
        centre.records.put("j", 1, state=JobState.FINISHED, log_base=0, log_size=8)
        reply = await centre.tail.answer(request(wait_s=0.05, positions={PATH: 4}))
        assert (reply.ended, reply.run_state) == (False, "success")
        centre.ship("j", 4, b"two\n")
        await centre.acknowledged()
        reply = await centre.tail.answer(request(wait_s=5.0, positions={PATH: 4}))
        assert (reply.body, reply.ended) == (b"two\n", False)
        reply = await centre.tail.answer(request(wait_s=5.0, positions={PATH: 8}))
        assert (reply.body, reply.ended) == (b"", True)

    centre_test(tmp_path, test)


def test_only_the_last_lines_are_sent_when_asked(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        centre.ship("j", 0, b"one\ntwo\nthree\n")
        await centre.acknowledged()
        assert (await centre.tail.answer(request(last_lines=2))).body == b"two\nthree\n"
        reply = await centre.tail.answer(request(last_lines=0))
        assert [(s.offset, s.length) for s in reply.slices] == [(14, 0)]

    centre_test(tmp_path, test)


def test_a_follower_of_a_dag_without_any_run_waits_for_the_first(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        follow = request(selector=LogSelector(dag_id="d"), wait_s=10.0)
        waiting = asyncio.create_task(centre.tail.answer(follow))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        centre.records.put("j", 1)
        centre.ship("j", 0, b"one\n")
        reply = await waiting
        assert (reply.run_id, reply.body, reply.error) == ("r", b"one\n", "")

    centre_test(tmp_path, test)


@pytest.mark.parametrize("says", ["no such Dag: 'd'", None])
def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, says: str | None) -> None:
    async def test(centre: Centre) -> None:
        centre.airflow.says = says
        reply = await centre.tail.answer(request(selector=LogSelector(dag_id="d")))
        assert reply.error == (says or "nothing of Dag 'd' has run on an edge worker, or it is no longer kept")

    centre_test(tmp_path, test)


def test_a_follower_of_everything_misses_no_task_between_two_requests(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        everything = LogSelector()
        first = await centre.tail.answer(request(selector=everything))
        assert first.streams == ()
        centre.records.put("j", 1)
        centre.ship("j", 0, b"short\n")
        await centre.acknowledged()
        centre.records.put("j", 1, state=JobState.FINISHED, log_base=0, log_size=6)
        reply = await centre.tail.answer(request(selector=everything, cursor=first.cursor))
        assert reply.body == b"short\n"

    centre_test(tmp_path, test)
