"""Others cut, delete, rotate and replace log files at the centre: nothing comes to a wrong place, nothing loops."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState
from edge_mqtt.broker_bridge.dispatch.ledger.interface import LedgerFull
from edge_mqtt.broker_bridge.logs.store import LogStore, Write
from edge_mqtt.broker_bridge.protocol.ids import JobId
from tests.support.scenario_bridge_logs import PATH, Centre, centre_test

LOSS = "the file of this log was cut, moved or replaced, or not all of it was written: something is missing here"
CHANGED = "was changed by another program"
FIRST = b"before deferral\n"
SECOND = b"one\ntwo\nthree\n"


def lines_of(text: bytes) -> list[str]:
    """Return a log's lines; of our own ones, what they say."""
    return [json.loads(line)["event"] if line.startswith("{") else line for line in text.decode().splitlines()]


async def ship_all(centre: Centre, whole: bytes, acked: int) -> None:
    """Ship a log as a worker does: from what is acknowledged, a few bytes at a time, until all of it is."""
    rounds = 0
    while acked < len(whole):
        acked = await centre.shipped("j", acked, whole[acked : acked + 5])
        rounds += 1
        assert rounds < 20, "it goes round in circles"


async def with_two_jobs(centre: Centre) -> None:
    """Let a task log before its deferral, and half of what it logs after it."""
    centre.records.put("first", 1)
    await centre.shipped("first", 0, FIRST)
    centre.records.change("first", state=CentralJobState.FINISHED, log_size=len(FIRST))
    centre.records.put("j", 2)
    await centre.shipped("j", 0, SECOND[:8])


def cut_all(file: Path) -> None:
    os.truncate(file, 0)


def delete(file: Path) -> None:
    file.unlink()


def rotate(file: Path) -> None:
    file.rename(file.with_suffix(".log.1"))
    file.touch()


@pytest.mark.parametrize("change", [cut_all, delete, rotate])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_file_that_is_emptied_is_written_anew_from_what_its_worker_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, change: Callable[[Path], None], *, restarted: bool
) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        await centre.shipped("j", 0, SECOND[:8])
        change(centre.file)
        if restarted:
            await centre.restart()
        await ship_all(centre, SECOND, 8)
        assert centre.text() == SECOND

    centre_test(tmp_path, test)
    assert caplog.text.count(CHANGED) == (0 if restarted else 1)


def test_bytes_cut_off_a_file_s_end_are_stored_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(centre: Centre) -> None:
        await with_two_jobs(centre)
        os.truncate(centre.file, len(FIRST) + 3)
        await ship_all(centre, SECOND, 8)
        assert centre.text() == FIRST + SECOND

    centre_test(tmp_path, test)
    assert caplog.text.count(CHANGED) == 1


@pytest.mark.parametrize("change", [cut_all, delete, rotate])
@pytest.mark.parametrize("restarted", [False, True])
def test_a_job_begins_anew_behind_a_line_when_what_stood_before_it_is_gone(
    tmp_path: Path, change: Callable[[Path], None], *, restarted: bool
) -> None:
    async def test(centre: Centre) -> None:
        await with_two_jobs(centre)
        change(centre.file)
        if restarted:
            await centre.restart()
        await ship_all(centre, SECOND, 8)
        assert lines_of(centre.text()) == [LOSS, "one", "two", "three"]

    centre_test(tmp_path, test)


def test_a_job_begins_anew_behind_what_stands_in_a_file_put_in_the_place_of_ours(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        centre.records.put("j", 1)
        await centre.shipped("j", 0, SECOND[:8])
        other = centre.file.with_suffix(".new")
        other.write_bytes(b"not ours\n")
        other.rename(centre.file)
        await ship_all(centre, SECOND, 8)
        assert lines_of(centre.text()) == ["not ours", LOSS, "one", "two", "three"]

    centre_test(tmp_path, test)


def test_a_file_restored_as_it_was_is_gone_on_with(tmp_path: Path) -> None:
    async def test(centre: Centre) -> None:
        await with_two_jobs(centre)
        other = centre.file.with_suffix(".new")
        other.write_bytes(centre.text())
        other.rename(centre.file)
        await ship_all(centre, SECOND, 8)
        assert centre.text() == FIRST + SECOND

    centre_test(tmp_path, test)


def test_a_job_goes_on_behind_what_others_append(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def test(centre: Centre) -> None:
        await with_two_jobs(centre)
        for number in range(3):
            with centre.file.open("ab") as file:
                file.write(b"[%d]" % number)
            assert await centre.shipped("j", 8 + number, SECOND[8 + number : 9 + number]) == 9 + number
        await centre.restart()
        await ship_all(centre, SECOND, 11)
        assert centre.text() == FIRST + b"one\ntwo\n[0]t[1]h[2]ree\n"

    centre_test(tmp_path, test)
    assert caplog.text.count(CHANGED) == 3


def test_a_ledger_that_takes_nothing_leaves_a_changed_file_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(centre: Centre) -> None:
        await with_two_jobs(centre)
        cut_all(centre.file)
        refused = asyncio.Event()

        async def refuse(*_: object) -> None:
            refused.set()
            raise LedgerFull("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(centre, "commit", refuse)
            centre.ship("j", 8, SECOND[8:])
            await refused.wait()
        await ship_all(centre, SECOND, 8)
        assert lines_of(centre.text()) == [LOSS, "one", "two", "three"]

    centre_test(tmp_path, test)


# ---------------------------------------------------------------- disks that fill up, programs that die


PROGRAM = """
import resource, sys
from pathlib import Path
from edge_mqtt.broker_bridge.logs.store import LogStore, Write
from edge_mqtt.broker_bridge.protocol.ids import JobId

def append(store, offset, data):
    write = Write(job_id=JobId("j"), log_path=sys.argv[2], base=0, offset=offset, data=data)
    appended = store.append([write])
    print(appended.stored.get("j"), bool(appended.failed), flush=True)

"""


def run_program(folder: Path, body: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + body, str(folder), PATH], stdout=subprocess.PIPE, text=True
    )


def test_a_disk_that_fills_up_in_the_middle_of_a_write_leaves_a_beginning_that_is_gone_on_with(
    tmp_path: Path,
) -> None:
    process = run_program(
        tmp_path,
        """
store = LogStore(Path(sys.argv[1]))
append(store, 0, b"a" * 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
append(store, 1000, b"b" * 5000)
append(store, 1000, b"b" * 5000)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
append(store, 1000, b"b" * 5000)
""",
    )
    out, _ = process.communicate(timeout=60)
    assert out.splitlines() == ["1000 False", "None True", "None True", "6000 False"]
    assert (tmp_path / PATH).read_bytes() == b"a" * 1000 + b"b" * 5000


def test_a_bridge_killed_while_it_writes_leaves_a_beginning_that_is_gone_on_with(tmp_path: Path) -> None:
    whole = bytes(range(256)) * 4096
    process = run_program(
        tmp_path,
        """
whole = bytes(range(256)) * 4096
store = LogStore(Path(sys.argv[1]))
for offset in range(0, len(whole), 4096):
    append(store, offset, whole[offset : offset + 4096])
""",
    )
    with process:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        acknowledged = max((int(line.split()[0]) for line in process.stdout.read().splitlines()), default=0)
    content = (tmp_path / PATH).read_bytes()
    assert len(content) >= acknowledged
    assert whole.startswith(content)

    async def test(centre: Centre) -> None:
        centre.records.put("j", 1, log_base=0)
        at = await centre.allocator.count_stored(JobId("j"))
        while at < len(whole):
            at = await centre.shipped("j", at, whole[at : at + 65536])
        assert centre.text() == whole

    centre_test(tmp_path, test)


def test_files_remembered_are_bounded(tmp_path: Path) -> None:
    store = LogStore(tmp_path, remembered_files=2)
    for number in range(5):
        path = f"{number}.log"
        store.append([Write(job_id=JobId("j"), log_path=path, base=0, offset=0, data=b"x")])
    assert list(store._left) == ["3.log", "4.log"]
