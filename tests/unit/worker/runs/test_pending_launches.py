"""Supervisors whose jobs are being stored or given back: those that come too soon or too late, and their files."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.ipc.contact_file import contact_path
from edge_mqtt.worker.ipc.run_files import RunFiles
from edge_mqtt.worker.ipc.run_outcome import RunOutcome
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.system.files import create_exclusively
from edge_mqtt.worker.timing import WorkerTiming
from tests.support.scenario_worker_parts import (
    JOB_ID,
    Log,
    Scene,
    assignment,
    hear_worker,
    launched_job,
    meanwhile,
    play,
)


@pytest.fixture
def worker_log(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    yield from hear_worker(caplog)


# ---------------------------------------------------------------- one job, two runs


def test_job_that_is_replaced_while_it_waits_for_the_spool_is_started_once(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        waiting = LocalJob.from_assignment(assignment(1))
        await scene.jobs.change_job(JOB_ID, lambda _: waiting)
        # The newer assignment is stored first; the launch of what it replaced waits behind it.
        replacement = asyncio.create_task(scene.assignments.answer_assignment(assignment(2)))
        await asyncio.sleep(0)
        async with meanwhile(scene.supervisors.launch_waiting()) as (launch,):
            await asyncio.wait([launch], timeout=2)
            await scene.requested.wait()
            assert [request.fence for request in scene.requests] == [2]
            assert launch.done()
        replacement.cancel()

    play(tmp_path, scenario)


# ---------------------------------------------------------------- supervisors that come too soon


@pytest.mark.parametrize("patience_ms", [10, 20_000])
def test_supervisor_that_calls_while_its_job_is_being_stored_hears_how_that_went(
    tmp_path: Path, patience_ms: int
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.spool._connection.execute(f"PRAGMA busy_timeout = {patience_ms}")
        gives_up = patience_ms < 1000
        launched = launched_job()
        with scene.locked():
            storing = asyncio.create_task(scene.jobs.change_job(JOB_ID, lambda _: launched))
            await asyncio.sleep(0)
            calling = asyncio.create_task(scene.jobs.find_by_secret(launched.secret))
            if gives_up:
                await asyncio.wait([storing])
                assert await calling is None
            else:
                await asyncio.wait([calling], timeout=0.05)
                assert not calling.done()
        if not gives_up:
            assert await calling is launched
        await asyncio.gather(storing, return_exceptions=True)

    play(tmp_path, scenario)


@pytest.mark.parametrize("waited", [False, True])
def test_supervisor_whose_job_could_not_be_stored_is_refused_and_leaves_nothing(
    tmp_path: Path, worker_log: Log, waited: bool
) -> None:
    async def scenario(scene: Scene) -> None:
        waiting = LocalJob.from_assignment(assignment()) if waited else None
        await scene.jobs.change_job(JOB_ID, lambda _: waiting)
        supervisor = await asyncio.create_subprocess_exec("cat", stdin=asyncio.subprocess.PIPE)
        scene.pid.set_result(supervisor.pid)
        with scene.locked():
            if waited:
                await scene.supervisors.launch_waiting()
                await worker_log.heard("launch_waits", 1)
            else:
                await scene.assignments.answer_assignment(assignment())
                await worker_log.heard("job_rejected", 1)
        (request,) = scene.requests
        assert scene.jobs.get(JOB_ID) is waiting
        assert await scene.jobs.find_by_secret(request.secret) is None
        come_and_be_refused(request)
        await supervisor.communicate(b"")
        while files_of_runs(tmp_path):  # noqa: ASYNC110 -- files tell nobody of their end
            await asyncio.sleep(0.01)

    play(tmp_path, scenario)


# ---------------------------------------------------------------- supervisors that come too late


def come_and_be_refused(request: RunRequest) -> None:
    """Do what a supervisor does whose worker does not know it any more."""
    assert create_exclusively(request.files.process, b"1 1 another-boot")
    request.files.output.touch()
    request.files.outcome.write_bytes(RunOutcome(exit_code=1, error="unknown_job").to_json())


def files_of_runs(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.suffix in (".pid", ".exit", ".out")}


async def give_back(scene: Scene) -> RunRequest:
    """Have a job given back whose launcher is gone; return what the launcher was told."""
    scene.launcher_gone = True
    await scene.assignments.answer_assignment(assignment())
    await scene.jobs.wait_until(lambda jobs: not len(jobs))
    scene.launcher_gone = False
    scene.requested.clear()
    return scene.requests[-1]


def test_supervisor_that_came_when_its_job_was_given_back_is_not_taken_for_that_of_the_next_launch(
    tmp_path: Path,
) -> None:
    async def scenario(scene: Scene) -> None:
        come_and_be_refused(await give_back(scene))
        # Nothing of it was recorded in the centre: it comes again, under the same fence.
        async with meanwhile(scene.assignments.answer_assignment(assignment())):
            await scene.requested.wait()
            files = scene.requests[-1].files
            assert not files.outcome.exists()
            assert create_exclusively(files.process, b"")

    play(tmp_path, scenario)


def test_what_a_supervisor_leaves_that_came_too_late_is_deleted(tmp_path: Path, worker_log: Log) -> None:
    async def scenario(scene: Scene) -> None:
        come_and_be_refused(await give_back(scene))
        await worker_log.heard("runs_swept", 1)
        assert not files_of_runs(tmp_path)

    play(tmp_path, scenario, timing=WorkerTiming(late_supervisor_s=0.02))


def test_supervisor_that_hangs_and_whose_job_could_not_be_stored_is_killed(tmp_path: Path, worker_log: Log) -> None:
    async def scenario(scene: Scene) -> None:
        supervisor = await asyncio.create_subprocess_exec("sleep", "1000")
        scene.pid.set_result(supervisor.pid)
        with scene.locked():
            await scene.assignments.answer_assignment(assignment())
            await worker_log.heard("job_rejected", 1)
        scene.requests[-1].files.process.touch()
        await worker_log.heard("abandoned_killed", 1)
        assert await supervisor.wait() == -signal.SIGKILL
        while files_of_runs(tmp_path):  # noqa: ASYNC110 -- files tell nobody of their end
            await asyncio.sleep(0.01)

    play(tmp_path, scenario, timing=WorkerTiming(late_supervisor_s=0.05))


def test_what_a_supervisor_leaves_is_deleted_when_its_job_could_not_be_stored_and_its_launcher_died(
    tmp_path: Path, worker_log: Log
) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher_gone = True
        with scene.locked():
            await scene.assignments.answer_assignment(assignment())
            await worker_log.heard("job_rejected", 1)
        come_and_be_refused(scene.requests[-1])
        await worker_log.heard("runs_swept", 1)
        assert not files_of_runs(tmp_path)

    play(tmp_path, scenario, timing=WorkerTiming(late_supervisor_s=0.02))


def test_worker_that_dies_before_it_can_store_that_a_job_is_given_back_gives_it_back_when_it_is_started_again(
    tmp_path: Path, worker_log: Log
) -> None:
    async def dies(scene: Scene) -> None:
        launched = launched_job()
        await scene.jobs.change_job(JOB_ID, lambda _: launched)
        with scene.locked():
            async with meanwhile(scene.supervisors.adopt_running()):
                await worker_log.heard("give_back_waits", 1)
                assert not create_exclusively(scene.supervisors.plan.files(launched).process, b"")

    async def starts_again(scene: Scene) -> None:
        assert len(scene.jobs) == 1
        await scene.supervisors.adopt_running()
        assert len(scene.jobs) == 0
        assert not files_of_runs(tmp_path)

    play(tmp_path, dies)
    play(tmp_path, starts_again)


def test_files_of_runs_that_nobody_holds_are_deleted_after_the_start_and_no_others(
    tmp_path: Path, worker_log: Log
) -> None:
    kept = {contact_path(tmp_path), tmp_path / "launcher.out"}
    orphans = set()
    for job_id, launch in ((JOB_ID, "0a1b2c3d"), (JobId("a.b"), "11111111"), (JobId("a/b"), "99999999")):
        files = RunFiles.of(tmp_path, job_id, Fence(1), launch)
        half_written = files.outcome.with_name(f".{files.outcome.name}.4711")
        orphans |= {files.process, files.outcome, files.output, half_written}
    for path in kept | orphans:
        path.touch()

    async def scenario(scene: Scene) -> None:
        launched = launched_job()
        await scene.jobs.change_job(JOB_ID, lambda _: launched)
        files = scene.supervisors.plan.files(launched)
        ours = {files.process, files.outcome.with_name(f".{files.outcome.name}.4711")}
        for path in ours:
            path.touch()
        await scene.supervisors.adopt_running()
        await worker_log.heard("runs_swept", 1)
        assert not any(path.exists() for path in orphans)
        assert all(path.exists() for path in kept | ours)

    play(tmp_path, scenario, timing=WorkerTiming(late_supervisor_s=0.0))


def test_files_that_cannot_be_deleted_do_not_end_the_worker(tmp_path: Path, worker_log: Log) -> None:
    # No file can be deleted in the place of a folder.
    (tmp_path / "j.0123456789ab.1.0a1b2c3d.pid").mkdir()

    async def scenario(scene: Scene) -> None:
        await scene.supervisors.adopt_running()
        async with meanwhile(scene.supervisors.wait_failure()) as (failure,):
            await worker_log.heard("sweep_failed", 1)
            assert not failure.done()

    play(tmp_path, scenario, timing=WorkerTiming(late_supervisor_s=0.0))
