"""One log file for several mapped tasks that run at the same time: every line is shipped once, and live."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.messages import Finished
from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.worker_lab import task_job

#: Each task prints until its file is there, and a line more.
DAG = """
import os
import time
from pathlib import Path

from airflow.sdk import DAG, task

FOLDER = Path(os.environ["LAB_FOLDER"])


def talk(name):
    for number in range(100_000):
        print(f"LINE {name} {number}.")
        time.sleep(0.01)
        if (FOLDER / name).exists():
            break
    print(f"LAST {name}.")


with DAG("lab") as dag:
    for name in "abc":
        task(task_id=name)(talk)(name)
"""
PATH = "dag_id=lab/shared.log"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("LAB_FOLDER", str(tmp_path))
    for _ in fresh_home(tmp_path, monkeypatch):
        (tmp_path / "home" / "dags" / "lab.py").write_text(DAG)
        yield tmp_path


def at_centre(lab: Lab) -> bytes:
    """Return all bytes that the centre has, of whichever job."""
    return b"".join(bytes(content) for content in lab.bridge.logs.values())


async def begin(lab: Lab, name: str) -> str:
    """Launch a task; return its job, when a line of it is at the centre."""
    job_id = lab.bridge.assign(task_job(name, log_path=PATH))
    await at_centre_soon(lab, f"LINE {name} 3.")
    return job_id


async def at_centre_soon(lab: Lab, text: str) -> None:
    """Wait until the centre has a text."""
    await lab.bridge.until(lambda: text.encode() in at_centre(lab))


async def end(lab: Lab, folder: Path, name: str, job_id: str) -> Finished:
    """Let a task end; return its result."""
    (folder / name).touch()
    return await lab.bridge.result(job_id)


def assert_each_line_once(lab: Lab) -> None:
    local = lab.local_log(PATH)
    assert sorted(at_centre(lab).splitlines()) == sorted(local.splitlines())
    assert len(at_centre(lab)) == len(local)


@pytest.mark.parametrize("order", ["abc", "cba", "bac"])
def test_every_line_of_tasks_that_overlap_is_shipped_once_and_live(folder: Path, order: str) -> None:
    async def scenario(lab: Lab) -> None:
        jobs = {name: await begin(lab, name) for name in "abc"}
        for name in order:
            await end(lab, folder, name, jobs[name])
            await at_centre_soon(lab, f"LAST {name}.")
        await lab.bridge.until(lambda: len(at_centre(lab)) == len(lab.local_log(PATH)))
        assert_each_line_once(lab)
        # Each is forgotten when all that was there at its end is at the centre.
        async with asyncio.timeout(20):
            await lab.worker._jobs.wait_until(lambda jobs: len(jobs) == 0)

    play(folder, scenario)


def test_a_task_that_begins_when_others_have_ended_goes_on_behind_them(folder: Path) -> None:
    async def scenario(lab: Lab) -> None:
        first, second = await begin(lab, "a"), await begin(lab, "b")
        await end(lab, folder, "a", first)
        third = await begin(lab, "c")
        await end(lab, folder, "b", second)
        await end(lab, folder, "c", third)
        await lab.bridge.until(lambda: len(at_centre(lab)) == len(lab.local_log(PATH)))
        assert_each_line_once(lab)

    play(folder, scenario)


def test_a_job_s_log_is_complete_when_all_is_there_that_the_file_had_at_its_end(folder: Path) -> None:
    async def scenario(lab: Lab) -> None:
        first, second = await begin(lab, "a"), await begin(lab, "b")
        lab.bridge.acks_logs = False
        result = await end(lab, folder, "b", second)
        # What it wrote is in the first one's log.
        assert result.log_size == 0
        assert not lab.worker._logs.is_stored(result.job_id)
        lab.bridge.acks_logs = True
        async with asyncio.timeout(20):
            await lab.worker._jobs.wait_until(lambda jobs: len(jobs) == 1)
        assert b"LAST b." in at_centre(lab)
        await end(lab, folder, "a", first)

    play(folder, scenario)
