"""A worker whose disk does not store what it is told to, and what it finds in the system's files."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt import worker
from edge_mqtt.broker_bridge.protocol.ids import Fence
from edge_mqtt.broker_bridge.protocol.messages import Cancel, Finished
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.errors import SpoolError
from edge_mqtt.worker.ipc.run_outcome import OUT_OF_MEMORY, RunOutcome
from edge_mqtt.worker.supervisor.main import store_outcome
from edge_mqtt.worker.system.oom import oom_kills
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


# ---------------------------------------------------------------- a spool that cannot be written


def test_settled_job_is_forgotten_when_the_spool_can_be_written_again(tmp_path: Path, worker_log: Log) -> None:
    async def scenario(scene: Scene) -> None:
        result = Finished(job_id=JOB_ID, fence=Fence(1), exit_code=0)
        job = LocalJob.from_assignment(assignment()).moved_to(LocalJobState.LAUNCHED)
        settled = job.moved_to(LocalJobState.FINISHED, result=result, result_acked=True)
        await scene.jobs.change_job(JOB_ID, lambda _: settled)
        scene.results.restore_unsent()
        with scene.locked():
            async with meanwhile(scene.results.run()) as (repeating,):
                await worker_log.heard("spool_failed", 2)
                assert not repeating.done()
                assert len(scene.jobs) == 1
        async with meanwhile(scene.results.run()):
            await scene.jobs.wait_until(lambda jobs: not len(jobs))

    play(tmp_path, scenario, timing=WorkerTiming(result_repeat_s=0.02))


def test_job_that_could_not_be_started_is_given_back_when_that_can_be_stored(tmp_path: Path, worker_log: Log) -> None:
    async def scenario(scene: Scene) -> None:
        scene.launcher_gone = True
        launched = LocalJob.from_assignment(assignment()).moved_to(LocalJobState.LAUNCHED)
        await scene.jobs.change_job(JOB_ID, lambda _: launched)
        with scene.locked():
            # What comes over the link does not wait for the disk.
            await scene.supervisors.finish_launch(launched)
            await worker_log.heard("give_back_waits", 2)
            assert scene.jobs.get(JOB_ID) is launched
        await scene.jobs.wait_until(lambda jobs: not len(jobs))

    play(tmp_path, scenario, timing=WorkerTiming(store_retry_s=0.02))


def test_cancel_of_a_waiting_job_that_cannot_be_stored_changes_nothing(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        waiting = LocalJob.from_assignment(assignment())
        await scene.jobs.change_job(JOB_ID, lambda _: waiting)
        cancel = Cancel(job_id=JOB_ID, fence=Fence(1), reason="cleared")
        with scene.locked(), pytest.raises(SpoolError, match="locked"):
            await scene.assignments.cancel_job(cancel)
        assert scene.jobs.get(JOB_ID) is waiting
        await scene.assignments.cancel_job(cancel)
        job = scene.jobs.get(JOB_ID)
        assert job is not None
        assert job.result is not None
        assert job.result.error == "cancelled before it started: cleared"

    play(tmp_path, scenario)


def test_nothing_is_said_in_the_log_of_a_task_that_ended_and_whose_result_waits_for_the_disk(tmp_path: Path) -> None:
    async def scenario(scene: Scene) -> None:
        log = scene.supervisors.plan.base_log_folder / "task.log"
        log.parent.mkdir()
        log.write_bytes(b"the task's\n")
        assign = assignment()
        assign = assign.model_copy(update={"job": assign.job.model_copy(update={"log_path": log.name})})
        # Its run is over; that is not stored yet.
        launched = launched_job(assign)
        await scene.jobs.change_job(JOB_ID, lambda _: launched)
        await scene.assignments.cancel_job(Cancel(job_id=JOB_ID, fence=Fence(1), reason="cleared"))
        assert log.read_bytes() == b"the task's\n"

    play(tmp_path, scenario)


def test_draining_worker_whose_spool_is_locked_goes_on_to_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(scene: Scene) -> None:
        await scene.jobs.change_job(JOB_ID, lambda _: LocalJob.from_assignment(assignment()))
        with scene.locked():
            await scene.assignments.give_back_waiting("this worker is draining")
        assert "locked" in caplog.text
        assert len(scene.jobs) == 1

    play(tmp_path, scenario)


def test_supervisor_keeps_its_outcome_until_the_disk_has_room(tmp_path: Path) -> None:
    path = tmp_path / "outcome"
    # What stands in the way for as long as this is a folder.
    path.mkdir()
    waits: list[float] = []

    def make_room(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            path.rmdir()

    outcome = RunOutcome(exit_code=7)
    store_outcome(path, outcome, sleep=make_room)
    assert RunOutcome.from_json(path.read_bytes()) == outcome
    assert len(waits) == 3


# ---------------------------------------------------------------- what the system's files say


def test_kernels_count_of_processes_killed_for_memory_is_read_from_either_kind_of_control_group(
    tmp_path: Path,
) -> None:
    cgroup = tmp_path / "cgroup"
    second = tmp_path / "system.slice/worker"
    second.mkdir(parents=True)
    (second / "memory.events").write_text("low 0\noom 9\noom_kill 3\noom_group_kill 0\n")
    cgroup.write_text("0::/system.slice/worker\n")
    assert oom_kills(cgroup, tmp_path) == 3
    first = tmp_path / "memory/jobs"
    first.mkdir(parents=True)
    (first / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n")
    cgroup.write_text("4:cpu,memory:/jobs\n0::/system.slice/worker\n")
    assert oom_kills(cgroup, tmp_path) == 2


@pytest.mark.parametrize("text", ["", "nonsense", "0::/gone\n", "4:memory:/gone\n"])
def test_kernel_that_does_not_say_has_killed_nothing(tmp_path: Path, text: str) -> None:
    cgroup = tmp_path / "cgroup"
    cgroup.write_text(text)
    assert oom_kills(cgroup, tmp_path) == 0
    assert oom_kills(tmp_path / "none", tmp_path) == 0


def test_kill_is_put_down_to_the_kernel_only_when_it_killed_something_meanwhile() -> None:
    assert RunOutcome.of_exit_code(-signal.SIGKILL, oom_kills=1).error == OUT_OF_MEMORY
    assert RunOutcome.of_exit_code(-signal.SIGKILL).error == ""
    assert RunOutcome.of_exit_code(-signal.SIGSEGV, oom_kills=1).error == ""
    assert RunOutcome.of_exit_code(1, oom_kills=1).error == ""


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (RunOutcome(exit_code=1), "exit code 1"),
        (RunOutcome(error="gone"), "gone"),
        (RunOutcome(signal=9), "killed by SIGKILL"),
        (RunOutcome(signal=9, error="why"), "killed by SIGKILL: why"),
        (RunOutcome(signal=99), "killed by signal 99"),
    ],
)
def test_outcome_says_how_the_run_failed(outcome: RunOutcome, said: str) -> None:
    assert outcome.cause == said


# ---------------------------------------------------------------- clocks

WORKER = Path(worker.__path__[0])
#: Where the wall clock is read: times for people, how far it is off, and whether a certificate will expire.
WALL_CLOCK = {"bridge/clock_watch.py": 1, "cli.py": 1, "logs/log_file.py": 1, "supervisor/main.py": 3}


def test_no_decision_of_the_worker_goes_by_the_wall_clock_which_may_jump_by_a_year() -> None:
    wall_clock = re.compile(r"\b(time\.time|datetime\.now|time\.localtime|time\.gmtime)\(")
    reads = {
        str(path.relative_to(WORKER)): len(wall_clock.findall(path.read_text())) for path in WORKER.rglob("*.py")
    }
    assert {name: count for name, count in reads.items() if count} == WALL_CLOCK
