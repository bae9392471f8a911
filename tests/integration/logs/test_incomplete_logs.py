"""Logs whose end does not come, and logs that stay on their worker, hold up nothing and are told of in the file."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.logs import notices
from edge_mqtt.broker_bridge.logs.completeness import LOG_WAIT_S, OBSERVATION_S
from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, Outcome, TailReply, TailRequest
from tests.support.scenario_bridge_logs import LEASE_S, PATH, WORKER, Centre, centre_test

OTHER = WorkerName("v")


def ended(base: int | None, size: int | None) -> dict[str, Any]:
    return {"state": CentralJobState.FINISHED, "log_base": base, "log_size": size}


def lines_of(text: bytes) -> list[str]:
    """Return a log's lines; of our own ones, what they say."""
    return [json.loads(line)["event"] if line.startswith("{") else line for line in text.decode().splitlines()]


async def wait(centre: Centre, job_id: str, seconds: float, offset: int = 0, data: bytes = b"later\n") -> None:
    """Let time pass while a worker tries, again and again, to ship the beginning of a job's log."""
    until = centre.now + seconds
    while True:
        centre.ship(job_id, offset, data, OTHER)
        await centre.settled()
        if centre.now >= until:
            break
        centre.now = min(centre.now + OBSERVATION_S, until)


async def read(centre: Centre, position: int) -> TailReply:
    return await centre.tail.answer(
        TailRequest(request_id="q", selector=LogSelector(dag_id="d", run_id="r"), positions={PATH: position})
    )


async def with_incomplete_log(centre: Centre) -> None:
    """Let a job end of whose 20 bytes 4 are here, and another go on with its task on another worker."""
    centre.records.put("before", 1)
    await centre.shipped("before", 0, b"one\n")
    centre.records.change("before", **ended(0, 20))
    centre.records.put("after", 2, worker=OTHER)


MISSING = "the last 16 bytes of the log before this line are missing: worker w has not brought them"


def test_rest_of_a_log_is_waited_for_while_its_worker_may_bring_it(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        await with_incomplete_log(centre)
        await wait(centre, "after", LOG_WAIT_S - 1)
        assert await centre.shipped("before", 4, b"two\n") == 8
        await wait(centre, "after", LOG_WAIT_S - 1)
        centre.away.add(WORKER)
        await wait(centre, "after", LEASE_S - 1)
        centre.away.clear()
        await wait(centre, "after", 0)
        assert await centre.shipped("before", 8, b"three\nfour\n\n") == 20
        assert await centre.shipped("after", 0, b"later\n", OTHER) == 6
        assert centre.text() == b"one\ntwo\nthree\nfour\n\nlater\n"

    centre_test(tmp_path, test)


@pytest.mark.parametrize("away", [False, True])
def test_rest_of_a_log_is_given_up_when_its_worker_brings_nothing_or_is_gone_for_the_lease(
    tmp_path: Path, *, away: bool
) -> None:
    async def test(centre: Centre) -> None:
        await with_incomplete_log(centre)
        if away:
            centre.away.add(WORKER)
        await wait(centre, "after", (LEASE_S if away else LOG_WAIT_S) - 1)
        assert lines_of(centre.text()) == ["one"]
        centre.now += 1
        assert await centre.shipped("after", 0, b"later\n", OTHER) == 6
        assert lines_of(centre.text()) == ["one", MISSING, "later"]
        # What comes now is too late. Its worker learns that nothing of it is wanted any more.
        assert await centre.shipped("before", 4, b"two\n") == 20
        # What a welcome says is what is here: what is not must not be taken for stored.
        assert await centre.allocator.count_stored(JobId("before")) == 4
        assert await centre.shipped("after", 6, b"end\n", OTHER) == 10
        await centre.restart()
        assert await centre.shipped("before", 4, b"two\n") == 20
        assert await centre.shipped("after", 10, b"of all\n", OTHER) == 17
        assert lines_of(centre.text()) == ["one", MISSING, "later", "end", "of all"]

    centre_test(tmp_path, test)


def test_nothing_is_said_of_a_log_before_it_is_noted_that_another_follows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise LedgerFull("the disk is full")

    async def test(centre: Centre) -> None:
        await with_incomplete_log(centre)
        await wait(centre, "after", LOG_WAIT_S - 1)
        centre.now += 1
        with monkeypatch.context() as patch:
            patch.setattr(centre, "commit", refuse)
            centre.ship("after", 0, b"later\n", OTHER)
            await centre.settled()
        # It may still come, then.
        assert await centre.shipped("before", 4, b"two\nthree\nfour\n\n") == 20
        assert centre.text() == b"one\ntwo\nthree\nfour\n\n"

    centre_test(tmp_path, test)


def test_a_disk_that_takes_nothing_is_not_the_worker_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async def test(centre: Centre) -> None:
        await with_incomplete_log(centre)
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", no_space)
            for _ in range(2):
                centre.ship("before", 4, b"two\n")
                for _ in range(10):
                    centre.ship("after", 0, b"later\n", OTHER)
                    await centre.settled()
                    centre.now += OBSERVATION_S
            assert centre.receiver.health.problem == "[Errno 28] No space left on device"
        assert await centre.shipped("before", 4, b"two\n") == 8
        await wait(centre, "after", LOG_WAIT_S - 1)
        assert lines_of(centre.text()) == ["one", "two"]

    centre_test(tmp_path, test)


def test_a_lost_job_holds_up_nothing_and_its_late_log_is_taken_until_another_has_begun(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("lost", 1)
        await centre.shipped("lost", 0, b"one\n")
        centre.records.change("lost", **ended(0, None))
        assert await centre.shipped("lost", 4, b"back again\n") == 15
        centre.records.put("after", 2, worker=OTHER)
        # Both in one batch: what came first is stored first.
        centre.ship("lost", 15, b"in time\n")
        centre.ship("after", 0, b"later\n", OTHER)
        acks = {(ack := await centre.ack()).job_id: ack.offset for _ in range(2)}
        assert acks == {"lost": 23, "after": 6}
        assert await centre.shipped("lost", 23, b"too late\n") == 32
        marker = "the end of the log before this line may be missing: contact with worker w was lost"
        assert lines_of(centre.text()) == ["one", "back again", "in time", marker, "later"]

    centre_test(tmp_path, test)


def test_two_jobs_that_begin_together_behind_an_incomplete_log_keep_what_is_said_of_it(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        await with_incomplete_log(centre)
        centre.records.change("after", **ended(None, None))
        centre.records.put("last", 3, worker=OTHER)
        await wait(centre, "after", LOG_WAIT_S - 1)
        centre.now += 1
        centre.ship("after", 0, b"in time\n", OTHER)
        centre.ship("last", 0, b"end\n", OTHER)
        await centre.settled()
        lost = "the end of the log before this line may be missing: contact with worker v was lost"
        assert lines_of(centre.text()) == ["one", MISSING, "in time", lost, "end"]
        bases = [centre.records.get(job).log_base or 0 for job in ("before", "after", "last")]
        assert bases == sorted(bases)

    centre_test(tmp_path, test)


def test_a_job_that_has_not_started_holds_up_nothing(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("queued", 1, state=CentralJobState.QUEUED, worker=None, starter=None)
        centre.records.put("after", 2)
        assert await centre.shipped("after", 0, b"one\n") == 4
        # It may start yet, but its place is taken.
        centre.records.change("queued", state=CentralJobState.RUNNING, worker=OTHER)
        assert await centre.shipped("queued", 0, b"late\n", OTHER) == 5
        assert centre.text() == b"one\n"

    centre_test(tmp_path, test)


def test_a_followed_run_ends_although_a_log_is_incomplete_and_says_so(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.airflow.run_state = "failed"
        centre.records.put("j", 1)
        await centre.shipped("j", 0, b"one\n")
        centre.records.change("j", **ended(0, 20))
        for _ in range(int(LOG_WAIT_S / OBSERVATION_S)):
            assert not (await read(centre, 4)).ended
            centre.now += OBSERVATION_S
        reply = await read(centre, 4)
        assert (reply.ended, reply.streams[0].complete) == (True, True)
        assert reply.streams[0].missing == "the last 16 bytes of the log are missing: worker w has not brought them"

    centre_test(tmp_path, test)


def test_a_followed_run_does_not_wait_for_the_log_of_a_lost_job(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.airflow.run_state = "failed"
        centre.records.put("j", 1, **ended(None, None))
        reply = await read(centre, 0)
        assert reply.ended
        assert reply.streams[0].missing == "the end of the log may be missing: contact with worker w was lost"

    centre_test(tmp_path, test)


# ---------------------------------------------------------------- jobs that failed before they began


WHY = "the log file d/r/t/1.log cannot be looked at: Too many levels of symbolic links"
UNSTARTED: dict[str, Any] = {
    "state": CentralJobState.FINISHED,
    "outcome": Outcome.FAILED,
    "starter": None,
    "detail": WHY,
}


@pytest.mark.parametrize("log_size", [None, 0])
@pytest.mark.parametrize("ships_log", [True, False])
def test_a_job_that_failed_before_it_began_has_a_line_that_says_why_once(
    tmp_path: Path, log_size: int | None, *, ships_log: bool
) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, **UNSTARTED, log_size=log_size, ships_log=ships_log)
        # The bridge died before it wrote the line.
        await centre.restart()
        await centre.settled()
        assert lines_of(centre.text()) == [f"the task was not started: {WHY}"]
        await centre.restart()
        await started(centre, "j")
        assert len(lines_of(centre.text())) == 1
        reply = await read(centre, 0)
        assert (reply.streams[0].complete, reply.streams[0].missing) == (True, "")

    centre_test(tmp_path, test)


@pytest.mark.parametrize("parent_is_there", [True, False])
def test_a_job_whose_log_has_no_place_in_the_centre_either_gets_no_line_and_harms_nothing(
    tmp_path: Path, *, parent_is_there: bool
) -> None:
    async def test(centre: Centre) -> None:
        if parent_is_there:
            (centre.folder / "d").mkdir(parents=True)
        centre.records.put("j", 1, **UNSTARTED, log_path=f"d/{'long' * 64}/1.log")
        await started(centre, "j")
        assert centre.receiver.health.problem is None
        assert not centre.receiver._without_notice

    centre_test(tmp_path, test)


# ---------------------------------------------------------------- logs that stay on their worker


KEPT = f"the log stays on worker w, in {PATH} below its base_log_folder: queue 'q' keeps its logs on the worker"


async def started(centre: Centre, job_id: str) -> None:
    centre.receiver.write_notice(JobId(job_id))
    await centre.settled()


def test_a_log_that_stays_on_its_worker_is_told_of_once(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, ships_log=False)
        await started(centre, "j")
        assert lines_of(centre.text()) == [KEPT]
        await started(centre, "j")
        await centre.restart()
        await started(centre, "j")
        assert lines_of(centre.text()) == [KEPT]
        centre.records.change("j", state=CentralJobState.FINISHED, log_size=0)
        centre.airflow.run_state = "success"
        reply = await read(centre, 0)
        assert (lines_of(reply.body), reply.streams[0].complete, reply.streams[0].missing) == ([KEPT], True, "")
        assert (await read(centre, len(centre.text()))).ended

    centre_test(tmp_path, test)


#: What of a line is on the disk when the bridge dies: nothing, its beginning, all but its newline, all.
TORN = [0, 1, 60, -1, 10_000]


@pytest.mark.parametrize("written", TORN)
@pytest.mark.parametrize("over", [False, True])
def test_the_line_is_there_and_whole_after_a_crash_while_it_was_written(
    tmp_path: Path, written: int, *, over: bool
) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, ships_log=False)
        whole = len(notices.kept_notice(centre.records.get("j"), datetime.now(UTC)))
        centre.doom(written % (whole + 1) - 1 if written < 0 else written)
        centre.receiver.write_notice(JobId("j"))
        await centre.died()
        if over:
            # Nobody speaks of it any more.
            centre.records.change("j", state=CentralJobState.FINISHED, log_size=0, event_acked=True)
        await centre.restart()
        await centre.settled()
        *before, last = centre.text().split(b"\n")[:-1]
        assert lines_of(last) == [KEPT]
        assert all(line.startswith(b'{"timestamp"'[: len(line)]) for line in before)
        centre.records.change("j", **ended(centre.records.get("j").log_base, 0))
        centre.records.put("after", 2)
        assert await centre.shipped("after", 0, b"one\n") == 4
        assert centre.text().endswith(b"\none\n")

    centre_test(tmp_path, test)


@pytest.mark.parametrize("written", TORN[:-1])
def test_what_a_crash_left_of_a_line_is_not_mixed_with_the_next_log(tmp_path: Path, written: int) -> None:
    async def test(centre: Centre) -> None:
        await with_incomplete_log(centre)
        await wait(centre, "after", LOG_WAIT_S - 1)
        size = len(json.dumps({"event": MISSING}))
        centre.doom(size if written < 0 else written)
        centre.now += 1
        centre.ship("after", 0, b"later\n", OTHER)
        await centre.died()
        # It has logged nothing more, as it seems: only its place is known.
        base = centre.records.get("after").log_base
        assert base is not None
        assert base > len(centre.text())
        centre.records.change("after", state=CentralJobState.FINISHED, log_size=0)
        await centre.restart()
        centre.records.put("last", 3)
        assert await centre.shipped("last", 0, b"end\n") == 4
        assert centre.text().endswith(b"\nend\n")

    centre_test(tmp_path, test)


@pytest.mark.parametrize("said", [True, False])
def test_another_log_waits_for_the_line_but_not_for_ever(tmp_path: Path, *, said: bool) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("kept", 1, ships_log=False, state=CentralJobState.FINISHED, log_size=0)
        centre.records.put("after", 2, worker=OTHER)
        await wait(centre, "after", LOG_WAIT_S - 1)
        assert centre.text() == b""
        if said:
            await started(centre, "kept")
        centre.now += 0 if said else 1
        assert await centre.shipped("after", 0, b"later\n", OTHER) == 6
        assert lines_of(centre.text()) == [*([KEPT] if said else []), "later"]

    centre_test(tmp_path, test)


def test_a_log_that_is_shipped_against_the_rules_comes_behind_the_line(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, ships_log=False)
        centre.ship("j", 0, b"one\n")
        await centre.settled()
        assert (centre.text(), centre.acked) == (b"", {})
        # Both in one batch.
        centre.ship("j", 0, b"one\n")
        await started(centre, "j")
        assert centre.acked == {"j": 0}
        assert await centre.shipped("j", 0, b"one\n") == 4
        assert lines_of(centre.text()) == [KEPT, "one"]

    centre_test(tmp_path, test)


def test_each_job_of_a_deferred_task_is_told_of_and_shipped_bytes_come_behind(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("first", 1, ships_log=False)
        await started(centre, "first")
        # Assigned before its queue kept its logs, so its worker ships it.
        assert await centre.shipped("first", 0, b"one\n") == 4
        centre.records.change("first", **ended(centre.records.get("first").log_base, 8))
        centre.records.put("second", 2, ships_log=False)
        await started(centre, "second")
        assert lines_of(centre.text()) == [KEPT, "one"]
        assert await centre.shipped("first", 4, b"two\n") == 8
        # It waits until the log before it is here, without being asked again.
        reply = await centre.tail.answer(
            TailRequest(
                request_id="q",
                selector=LogSelector(dag_id="d", run_id="r"),
                positions={PATH: len(centre.text())},
                wait_s=10.0,
            )
        )
        assert lines_of(reply.body) == [KEPT]
        centre.records.put("third", 3)
        centre.records.change("second", state=CentralJobState.FINISHED, log_size=0)
        assert await centre.shipped("third", 0, b"three\n") == 6
        assert lines_of(centre.text()) == [KEPT, "one", "two", KEPT, "three"]

    centre_test(tmp_path, test)


def test_the_line_waits_for_a_ledger_that_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(centre: Centre) -> None:
        refused = asyncio.Event()

        async def refuse(*_: object) -> None:
            refused.set()
            raise LedgerFull("the disk is full")

        centre.records.put("j", 1, ships_log=False)
        with monkeypatch.context() as patch:
            patch.setattr(centre, "commit", refuse)
            centre.receiver.write_notice(JobId("j"))
            await refused.wait()
        await centre.settled()
        assert lines_of(centre.text()) == [KEPT]
        assert centre.receiver.health.problem is None

    centre_test(tmp_path, test)


def test_a_log_that_is_shipped_gets_no_line(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        await started(centre, "j")
        assert not centre.file.exists()

    centre_test(tmp_path, test)
