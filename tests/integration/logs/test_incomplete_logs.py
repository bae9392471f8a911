"""Logs whose end does not come hold up nothing and are told of in the file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.logs.completeness import LOG_WAIT_S, OBSERVATION_S
from edge_mqtt.broker_bridge.protocol.ids import JobId
from tests.support.scenario_bridge_log_ends import MISSING, OTHER, ended, lines_of, read, wait, with_incomplete_log
from tests.support.scenario_bridge_logs import LEASE_S, WORKER, Centre, centre_test


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
