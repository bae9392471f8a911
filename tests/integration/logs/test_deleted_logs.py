"""[logging] delete_local_logs: a log is deleted on its worker when the centre has all of it, and not before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.messages import LogAck
from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.worker_lab import task_job

DELETES = {"deletes_logs": True}


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


async def forgotten(lab: Lab, *, left: int = 0) -> None:
    """Wait until the worker has forgotten all jobs but so many."""
    async with asyncio.timeout(30):
        await lab.worker._jobs.wait_until(lambda jobs: len(jobs) == left)


def files(lab: Lab) -> list[Path]:
    """Return what is below the folder of task logs."""
    return sorted((lab.home / "logs").glob("dag_id=*/**/*.log"))


def test_a_log_is_deleted_when_its_last_byte_is_acknowledged_and_not_before(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        lab.bridge.acks_logs = False
        assign = task_job("hello")
        job_id = lab.bridge.assign(assign)
        result = await lab.bridge.result(job_id)
        await lab.whole_log(job_id, result.log_size)
        whole = lab.local_log(assign.job.log_path)
        lab.bridge.control(LogAck(job_id=result.job_id, fence=result.fence, offset=result.log_size - 1))
        # A second job's whole life comes after that.
        lab.bridge.acks_logs = True
        other = lab.bridge.assign(task_job("hello"))
        await lab.bridge.result(other)
        await forgotten(lab, left=1)
        assert files(lab) == [lab.home / "logs" / str(assign.job.log_path)]
        lab.bridge.control(LogAck(job_id=result.job_id, fence=result.fence, offset=result.log_size))
        await forgotten(lab)
        assert bytes(lab.bridge.logs[job_id]) == whole
        # With the folders that are empty then.
        assert list((lab.home / "logs").glob("dag_id=*")) == []

    play(tmp_path, scenario, settings=DELETES)


def test_a_log_stays_when_nothing_says_that_it_is_to_be_deleted(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.bridge.result(lab.bridge.assign(task_job("hello")))
        await forgotten(lab)
        assert len(files(lab)) == 1

    play(tmp_path, scenario)


def test_a_log_that_the_centre_does_not_want_stays(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        lab.bridge.acks_logs = False
        result = await lab.bridge.result(lab.bridge.assign(task_job("hello")))
        lab.bridge.control(LogAck(job_id=result.job_id, fence=result.fence, offset=result.log_size, stored=False))
        await forgotten(lab)
        assert len(files(lab)) == 1

    play(tmp_path, scenario, settings=DELETES)


def test_a_log_that_stays_on_its_worker_is_not_deleted(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.bridge.result(lab.bridge.assign(task_job("hello", ships_log=False)))
        await forgotten(lab)
        assert len(files(lab)) == 1

    play(tmp_path, scenario, settings=DELETES)


def test_a_file_is_not_deleted_while_another_job_writes_it(tmp_path: Path) -> None:
    path = "dag_id=lab/shared.log"

    async def scenario(lab: Lab) -> None:
        running = lab.bridge.assign(task_job("wait_for", log_path=path))
        await lab.bridge.until(lambda: b"tick 1" in lab.bridge.logs.get(running, b""))
        await lab.bridge.result(lab.bridge.assign(task_job("hello", log_path=path)))
        await forgotten(lab, left=1)
        assert len(files(lab)) == 1
        lab.until_file.touch()
        await lab.bridge.result(running)
        await forgotten(lab)
        assert files(lab) == []
        text = b"".join(bytes(log) for log in lab.bridge.logs.values())
        assert (text.count(b"hello from the edge"), text.count(b'"seen"')) == (1, 1)

    play(tmp_path, scenario, settings=DELETES)


def test_what_others_have_added_to_a_file_is_not_deleted(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        lab.bridge.acks_logs = False
        assign = task_job("hello")
        result = await lab.bridge.result(lab.bridge.assign(assign))
        await lab.whole_log(result.job_id, result.log_size)
        with (lab.home / "logs" / str(assign.job.log_path)).open("ab") as file:
            file.write(b"of somebody else\n")
        lab.bridge.control(LogAck(job_id=result.job_id, fence=result.fence, offset=result.log_size))
        await forgotten(lab)
        assert lab.local_log(assign.job.log_path).endswith(b"of somebody else\n")

    play(tmp_path, scenario, settings=DELETES)
