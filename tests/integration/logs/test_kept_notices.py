"""Logs that stay on their worker: one line in the file tells of them, and survives crashes."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.logs import notices
from edge_mqtt.broker_bridge.logs.completeness import LOG_WAIT_S
from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import LogSelector, TailRequest
from tests.support.scenario_bridge_log_ends import (
    MISSING,
    OTHER,
    ended,
    lines_of,
    read,
    wait,
    with_incomplete_log,
    write_notice,
)
from tests.support.scenario_bridge_logs import PATH, Centre, centre_test

KEPT = f"the log stays on worker w, in {PATH} below its base_log_folder: queue 'q' keeps its logs on the worker"


def test_a_log_that_stays_on_its_worker_is_told_of_once(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, ships_log=False)
        await write_notice(centre, "j")
        assert lines_of(centre.text()) == [KEPT]
        await write_notice(centre, "j")
        await centre.restart()
        await write_notice(centre, "j")
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
            await write_notice(centre, "kept")
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
        await write_notice(centre, "j")
        assert centre.acked == {"j": 0}
        assert await centre.shipped("j", 0, b"one\n") == 4
        assert lines_of(centre.text()) == [KEPT, "one"]

    centre_test(tmp_path, test)


def test_each_job_of_a_deferred_task_is_told_of_and_shipped_bytes_come_behind(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("first", 1, ships_log=False)
        await write_notice(centre, "first")
        # Assigned before its queue kept its logs, so its worker ships it.
        assert await centre.shipped("first", 0, b"one\n") == 4
        centre.records.change("first", **ended(centre.records.get("first").log_base, 8))
        centre.records.put("second", 2, ships_log=False)
        await write_notice(centre, "second")
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
        await write_notice(centre, "j")
        assert not centre.file.exists()

    centre_test(tmp_path, test)
