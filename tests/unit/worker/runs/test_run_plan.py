"""Where a job's log begins must be known before it is launched: else it would ship the bytes of an earlier try.

What is the job's fault fails it at once, as Airflow's own executors do; what is the machine's is waited out.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import Assign, AssignmentRejected
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.timing import WorkerTiming
from tests.support.scenario_worker_parts import Log, Scene, assignment, hear_worker, play

LONG = "検" * 90


def with_log(path: str, job_id: str = "j") -> Assign:
    assign = assignment()
    spec = assign.job.model_copy(update={"log_path": path, "job_id": JobId(job_id)})
    return assign.model_copy(update={"job": spec})


async def keep_waiting(scene: Scene, *assigns: Assign) -> None:
    """Have the worker hold some jobs that wait to be launched."""
    for assign in assigns:
        waiting = LocalJob.from_assignment(assign)
        await scene.jobs.change_job(waiting.job_id, partial(_put, waiting))


def _put(job: LocalJob, _before: LocalJob | None) -> LocalJob:
    return job


def a_name_that_is_too_long(_logs: Path) -> str:
    return f"d/task_id={LONG}/attempt=1.log"


def a_link_that_leads_in_a_circle(logs: Path) -> str:
    (logs / "d" / "loop").symlink_to("loop")
    return "d/loop/1.log"


def a_file_in_the_place_of_a_folder(logs: Path) -> str:
    (logs / "d" / "file").touch()
    return "d/file/1.log"


JOB_S_FAULTS = [a_name_that_is_too_long, a_link_that_leads_in_a_circle, a_file_in_the_place_of_a_folder]
Fault = Callable[[Path], str]


@pytest.fixture
def worker_log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    yield from hear_worker(caplog)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    (tmp_path / "logs" / "d").mkdir(parents=True)
    return tmp_path / "logs"


def rejections(scene: Scene) -> list[tuple[bool, bool, str]]:
    """Return what the worker has said of the jobs that it did not take: permanent, takes none, and why."""
    return [
        (message.permanent, message.takes_none, message.reason)
        for message in scene.said
        if isinstance(message, AssignmentRejected)
    ]


@pytest.mark.parametrize("fault", JOB_S_FAULTS)
def test_job_that_can_have_no_log_file_is_refused_for_good(tmp_path: Path, logs: Path, fault: Fault) -> None:
    assign = with_log(fault(logs))

    async def scenario(scene: Scene) -> None:
        await scene.assignments.answer_assignment(assign)
        ((permanent, takes_none, reason),) = rejections(scene)
        assert (permanent, takes_none) == (True, False)
        assert reason.startswith(f"the log file {assign.job.log_path} cannot be looked at: ")
        assert not scene.requests
        assert not len(scene.jobs)

    play(tmp_path, scenario)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_job_that_meets_a_broken_disk_goes_back_and_the_worker_takes_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def scenario(scene: Scene) -> None:
        break_disk(monkeypatch, "1.log", number)
        await scene.assignments.answer_assignment(with_log("d/1.log"))
        ((permanent, takes_none, reason),) = rejections(scene)
        assert (permanent, takes_none) == (False, True)
        assert os.strerror(number) in reason

    play(tmp_path, scenario)


@pytest.mark.parametrize("fault", JOB_S_FAULTS)
def test_accepted_job_that_can_have_no_log_file_fails_and_holds_up_none_behind_it(
    tmp_path: Path, logs: Path, fault: Fault
) -> None:
    path = fault(logs)

    async def scenario(scene: Scene) -> None:
        await keep_waiting(scene, with_log(path), with_log("d/2.log", "next"))
        scene.pid.set_result(os.getpid())
        await scene.supervisors.launch_waiting()
        assert [request.job_id for request in scene.requests] == ["next"]
        failed = scene.jobs.get(JobId("j"))
        assert failed is not None
        assert failed.state is LocalJobState.FINISHED
        assert failed.result is not None
        assert failed.result.exit_code is None
        assert failed.result.error.startswith(f"the log file {path} cannot be looked at: ")

    play(tmp_path, scenario)


def test_accepted_job_that_meets_a_broken_disk_is_stepped_over_and_launched_later(
    tmp_path: Path, worker_log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: Scene) -> None:
        await keep_waiting(scene, with_log("d/broken.log"), with_log("d/2.log", "next"))
        # Both have room.
        scene.supervisors.plan = replace(scene.supervisors.plan, concurrency=2)
        scene.pid.set_result(os.getpid())
        with monkeypatch.context() as broken:
            break_disk(broken, "broken.log", errno.EIO)
            await scene.supervisors.launch_waiting()
            await worker_log.heard("launch_waits", 1)
            assert [request.job_id for request in scene.requests] == ["next"]
        await worker_log.heard("job_launched", 2)
        assert [request.job_id for request in scene.requests] == ["next", "j"]

    play(tmp_path, scenario, timing=WorkerTiming(store_retry_s=0.05))


def break_disk(patch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Have files of a name give an error when they are looked at: there is no disk here to break."""
    look = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        if path.name == name:
            raise OSError(number, os.strerror(number))
        return look(path, **options)

    patch.setattr(Path, "stat", stat)


def test_worker_says_why_in_its_own_log(
    tmp_path: Path, logs: Path, worker_log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    assign = with_log(a_name_that_is_too_long(logs))

    async def scenario(scene: Scene) -> None:
        await scene.assignments.answer_assignment(assign)
        await worker_log.heard("job_rejected", 1)

    play(tmp_path, scenario)
    assert [os.strerror(errno.ENAMETOOLONG) in record.getMessage() for record in caplog.records] == [True]
    assert caplog.records[0].levelno == logging.WARNING
