"""Tasks whose process or supervisor is killed, hangs, or cannot write: real processes, real signals."""

from __future__ import annotations

import asyncio
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, Finished
from tests.support.scenario_worker import Lab, fresh_home, play, supervisor_of, wait_until_ended
from tests.support.worker_lab import CLIENT_ID, callback_job, execution_api, task_job

#: Seconds of silence: a supervisor says something every second.
QUICK = {"hung_after_s": 6.0}


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


async def ended(*processes: psutil.Process) -> None:
    """Wait until processes have ended."""
    for process in processes:
        await asyncio.to_thread(wait_until_ended, process)


# ---------------------------------------------------------------- killed


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_killed_task_is_reported_with_its_signal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setenv("LAB_SIGNAL", str(int(number)))

    async def scenario(lab: Lab) -> None:
        result = await lab.bridge.result(lab.bridge.assign(task_job("shot")))
        assert (result.exit_code, result.signal) == (None, number)
        last = lab.bridge.of(ApiRequest)[-1]
        assert b'"failed"' in last.body

    play(tmp_path, scenario)


def test_killed_supervisor_is_reported_with_its_signal_and_its_task_ends_with_it(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        supervisor = supervisor_of(lab.state)
        task = supervisor.children()[0]
        supervisor.kill()
        result = await lab.bridge.result(job_id)
        assert (result.exit_code, result.signal) == (None, signal.SIGKILL)
        await ended(task)
        await lab.log_line(job_id, "supervisor on the edge has ended without a word: killed by SIGKILL")
        await lab.whole_log(job_id, result.log_size)

    play(tmp_path, scenario)


def test_task_is_ended_when_its_log_cannot_be_written_and_that_is_reported_when_the_disk_has_room(
    tmp_path: Path,
) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("says_one_word"))
        await lab.marked()
        supervisor = supervisor_of(lab.state)
        task = supervisor.children()[0]
        # A full disk, for this process alone.
        unlimited = resource.prlimit(supervisor.pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        lab.until_file.touch()
        await ended(task)
        assert supervisor.is_running()
        assert not lab.bridge.of(Finished)
        resource.prlimit(supervisor.pid, resource.RLIMIT_FSIZE, unlimited)
        result = await lab.bridge.result(job_id)
        assert (result.exit_code, result.error) == (1, "OSError: [Errno 27] File too large")
        assert lab.times_run == 1

    play(tmp_path, scenario)


def test_kernel_short_of_memory_takes_a_task_rather_than_the_launcher_or_the_worker(tmp_path: Path) -> None:
    def score(process: psutil.Process) -> int:
        return int(Path(f"/proc/{process.pid}/oom_score_adj").read_text())

    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        supervisor = supervisor_of(lab.state)
        (task,) = supervisor.children()
        launcher = supervisor.parent()
        assert launcher is not None
        assert score(launcher) == score(psutil.Process())
        assert score(supervisor) == score(task) == min(1000, score(launcher) + 500)
        lab.until_file.touch()
        await lab.bridge.result(job_id)

    play(tmp_path, scenario)


# ---------------------------------------------------------------- hung


def test_hung_supervisor_is_ended_with_its_task_and_reported_and_others_are_undisturbed(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        hung = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(hung, "tick 1")
        supervisor = supervisor_of(lab.state, hung)
        task = supervisor.children()[0]
        beside = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(beside, "tick 1")
        supervisor.suspend()
        result = await lab.bridge.result(hung)
        assert result.exit_code is None
        assert result.error == "the task's supervisor has hung: it was not heard of for 6 s"
        await lab.log_line(hung, f"Killed by the edge worker: {result.error}")
        await ended(supervisor, task)
        lab.until_file.touch()
        assert (await lab.bridge.result(beside)).exit_code == 0

    play(tmp_path, scenario, settings=QUICK)


def test_supervisor_whose_call_waits_for_the_centre_does_not_count_as_hung(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        lab.bridge.api = lambda call: None if call.target.startswith("variables/") else execution_api(call)
        waits = lab.bridge.assign(task_job("asks"))
        await lab.bridge.until(lambda: lab.bridge.of(ApiRequest, lambda m: "variables/" in m.target))
        # One that hangs since then measures the time: it is ended first, if the other is ended at all.
        hangs = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(hangs, "tick 1")
        supervisor_of(lab.state, hangs).suspend()
        await lab.bridge.result(hangs)
        assert not lab.bridge.of(Finished, lambda m: m.job_id == waits)
        lab.bridge.api = execution_api
        lab.bridge.broker.cut(CLIENT_ID)
        lab.bridge.broker.restore(CLIENT_ID)
        assert (await lab.bridge.result(waits)).exit_code == 0

    play(tmp_path, scenario, settings=QUICK)


def test_callback_which_makes_no_heartbeats_is_left_alone(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        callback = lab.bridge.assign(callback_job("lab.called_for_long"))
        await lab.log_line(callback, "the callback waits")
        hangs = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(hangs, "tick 1")
        supervisor_of(lab.state, hangs).suspend()
        await lab.bridge.result(hangs)
        lab.until_file.touch()
        assert (await lab.bridge.result(callback)).exit_code == 0

    play(tmp_path, scenario, settings=QUICK)
