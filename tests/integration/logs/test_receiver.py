"""Logs come in from workers in chunks, are stored in order across deferrals, and are read while they grow."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.dispatch.core.events import Event, LogOpened
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, TailRequest
from tests.support.scenario_bridge_logs import PATH, Centre, centre_test


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
        assert await centre.allocator.count_stored(JobId("j")) == 8

    centre_test(tmp_path, test)


def test_acknowledgement_tells_how_long_the_disk_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        commit = centre.commit

        async def commit_later(event: Event) -> None:
            await asyncio.sleep(0.05)
            await commit(event)

        monkeypatch.setattr(centre, "commit", commit_later)
        centre.ship("j", 0, b"one\n")
        assert (await centre.ack()).held_s >= 0.04

    centre_test(tmp_path, test)


def test_logs_that_begin_together_are_noted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(centre: Centre) -> None:
        noting, all_are_noting = set[JobId](), asyncio.Event()
        commit = centre.commit

        async def noted_with_the_others(event: Event) -> None:
            assert isinstance(event, LogOpened)
            noting.add(event.job_id)
            if len(noting) == 3:
                all_are_noting.set()
            await all_are_noting.wait()
            await commit(event)

        monkeypatch.setattr(centre, "commit", noted_with_the_others)
        for number in range(3):
            centre.records.put(f"j{number}", number, log_path=f"{number}.log")
            centre.ship(f"j{number}", 0, b"one\n")
        assert [await centre.acknowledged() for _ in range(3)] == [4, 4, 4]
        assert [(tmp_path / f"{number}.log").read_bytes() for number in range(3)] == [b"one\n"] * 3

    centre_test(tmp_path, test)


def test_a_log_that_cannot_be_synced_is_not_acknowledged_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fdatasync
    broken = tmp_path / "0.log"

    def fails_for_one(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), broken.stat()):
            raise OSError(errno.EIO, "Input/output error")
        sync(descriptor)

    async def test(centre: Centre) -> None:
        monkeypatch.setattr(os, "fdatasync", fails_for_one)
        for number in range(3):
            centre.records.put(f"j{number}", number, log_path=f"{number}.log")
            centre.ship(f"j{number}", 0, b"one\n")
        await centre.settled()
        assert centre.acked == {"j1": 4, "j2": 4}
        assert centre.receiver.health.problem is not None
        monkeypatch.setattr(os, "fdatasync", sync)
        centre.ship("j0", 0, b"one\n")
        assert await centre.acknowledged() == 4
        assert broken.read_bytes() == b"one\n"

    centre_test(tmp_path, test)


def test_a_resumed_task_s_log_waits_until_the_log_before_the_deferral_is_here(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("before", 1)
        centre.records.put("after", 2, worker=WorkerName("v"))
        centre.ship("before", 0, b"one\n")
        assert await centre.acknowledged() == 4
        centre.ship("after", 0, b"too early\n", WorkerName("v"))
        centre.records.put("before", 1, state=CentralJobState.FINISHED, log_base=0, log_size=8)
        centre.ship("after", 0, b"still too early\n", WorkerName("v"))
        centre.ship("before", 4, b"two\n")
        assert await centre.acknowledged() == 8
        centre.ship("after", 0, b"three\n", WorkerName("v"))
        assert await centre.acknowledged() == 6
        assert (tmp_path / PATH).read_bytes() == b"one\ntwo\nthree\n"
        assert await centre.allocator.count_stored(JobId("before")) == 8

    centre_test(tmp_path, test)


def test_a_log_waits_for_every_log_before_it_also_when_one_of_them_has_not_begun(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("first", 1, state=CentralJobState.FINISHED, log_size=4)
        centre.records.put("revoked", 2, state=CentralJobState.FINISHED, starter=None)
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
        centre.records.put("j", 1, state=CentralJobState.ASSIGNED)
        centre.ship("j", 0, b"too early\n")
        await centre.settled()
        centre.records.put("j", 1, worker=WorkerName("v"))
        centre.ship("j", 0, b"one\n", WorkerName("v"))
        assert await centre.acknowledged() == 4
        assert (tmp_path / PATH).read_bytes() == b"one\n"

    centre_test(tmp_path, test)


def test_what_waits_for_the_disk_is_bounded(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        for _ in range(50):
            centre.ship("j", 0, b"x" * 60)
        centre.ship("j", 60, b"y" * 60)
        assert await centre.acknowledged() == 60
        assert (tmp_path / PATH).stat().st_size == 60

    centre_test(tmp_path, test, max_waiting_bytes=100)


def test_a_ledger_that_cannot_be_asked_ends_no_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        asked = asyncio.Event()

        async def refuse(*_: object) -> None:
            asked.set()
            raise LedgerFull("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(centre, "commit", refuse)
            centre.ship("j", 0, b"one\n")
            await asked.wait()
        assert await centre.shipped("j", 0, b"one\n") == 4
        assert centre.receiver.health.problem is None

    centre_test(tmp_path, test)


def test_what_no_worker_may_ship_is_acknowledged_so_that_it_is_forgotten_and_never_stored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, fence=2)
        for _ in range(2):
            centre.ship("j", 0, b"forged\n", WorkerName("thief"), fence=2)
            assert await centre.acknowledged() == 7
            centre.ship("unknown", 3, b"x\n")
            assert await centre.acknowledged() == 5
            centre.ship("j", 0, b"stale run\n", fence=1)
            ack = await centre.ack()
            assert (ack.offset, ack.fence) == (10, 1)
        centre.ship("j", 0, b"true\n", fence=2)
        ack = await centre.ack()
        assert (ack.offset, ack.fence) == (5, 2)
        assert centre.text() == b"true\n"

    centre_test(tmp_path, test)
    assert sum("log refused" in record.getMessage() for record in caplog.records) == 3


def test_a_path_that_leads_outside_is_refused_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "dag_id=d").symlink_to(tmp_path)

    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        for _ in range(2):
            assert await centre.shipped("j", 0, b"one\n") == 4

    centre_test(tmp_path / "logs", test)
    assert sum("leads outside" in record.getMessage() for record in caplog.records) == 1


def test_a_folder_that_takes_nothing_is_told_in_one_line_and_gone_on_with_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        blocked = tmp_path / "dag_id=d"
        blocked.write_text("a file where a folder should be")
        for _ in range(3):
            centre.ship("j", 0, b"one\n")
            await centre.settled()
        assert centre.receiver.health.problem is not None
        blocked.unlink()
        assert await centre.shipped("j", 0, b"one\n") == 4
        assert centre.receiver.health.problem is None

    centre_test(tmp_path, test)
    assert sum("cannot be stored" in record.getMessage() for record in caplog.records) == 1


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
        centre.records.put("j", 1, state=CentralJobState.FINISHED, log_base=0, log_size=8)
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
        await centre.change_feed.waited.wait()
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
        centre.records.put("j", 1, state=CentralJobState.FINISHED, log_base=0, log_size=6)
        reply = await centre.tail.answer(request(selector=everything, cursor=first.cursor))
        assert reply.body == b"short\n"

    centre_test(tmp_path, test)


def test_one_log_that_the_bridge_fails_at_holds_up_no_other_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(centre: Centre) -> None:
        commit = centre.commit

        async def fail_for_one(event: Event) -> None:
            assert isinstance(event, LogOpened)
            if event.job_id == "odd":
                raise OverflowError("too large")
            await commit(event)

        monkeypatch.setattr(centre, "commit", fail_for_one)
        centre.records.put("odd", 1, log_path="odd.log")
        centre.records.put("j", 2)
        centre.ship("odd", 0, b"lost\n")
        centre.ship("j", 0, b"one\n")
        assert (await centre.ack()).job_id == "j"
        append = centre.receiver._append

        async def fail_once(*_: object) -> None:
            monkeypatch.setattr(centre.receiver, "_append", append)
            raise RuntimeError("a bug of ours")

        monkeypatch.setattr(centre.receiver, "_append", fail_once)
        centre.ship("j", 4, b"two\n")
        centre.ship("j", 4, b"two\n")
        await centre.settled()
        centre.ship("j", 4, b"two\n")
        assert await centre.acknowledged() == 8

    centre_test(tmp_path, test)
    actions = [vars(record).get("action") for record in caplog.records]
    assert (actions.count("log_failed"), actions.count("logs_failed")) == (1, 1)
