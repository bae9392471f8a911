"""A worker, or the bridge, stops tasks: cancels, leases that are over, interrupts and refusals."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    AssignmentRejected,
    Cancel,
    Finished,
    JobRef,
    Presence,
    WorkerState,
)
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.worker.core.drain import StopSignal
from edge_mqtt.worker.system.boot_clock import boottime
from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.worker_lab import CLIENT_ID, task_job


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


def test_cancelled_task_is_stopped_with_everything_it_started(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        supervisors = [
            p for p in psutil.Process().children(recursive=True) if "lab.wait_for" in " ".join(p.cmdline())
        ]
        assert supervisors
        lab.bridge.control(Cancel(job_id=JobId(job_id), fence=Fence(1), reason="cleared in the UI"))
        result = await lab.bridge.result(job_id)
        assert result.exit_code != 0
        assert result.error == "cleared in the UI"
        await lab.log_line(job_id, "Stopped by the edge worker: cleared in the UI")
        assert not any(process.is_running() and process.status() != "zombie" for process in supervisors)

    play(tmp_path, scenario, kill_grace_s=1.0)


def test_task_that_is_stopped_has_the_whole_kill_grace_to_clean_up(tmp_path: Path) -> None:
    # More than the 5 s that Airflow's supervisor gives a task when it is told that the task must not go on.
    kill_grace_s = 6.5

    async def scenario(lab: Lab) -> None:
        # It takes no notice of SIGTERM.
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        told_at = boottime()
        lab.bridge.control(Cancel(job_id=JobId(job_id), fence=Fence(1), reason="cleared in the UI"))
        result = await lab.bridge.result(job_id)
        assert boottime() - told_at >= kill_grace_s
        assert (result.signal, result.error) == (signal.SIGKILL, "cleared in the UI")
        await lab.whole_log(job_id, result.log_size)
        log = bytes(lab.bridge.logs[job_id])
        assert b"Task killed!" in log
        assert b"out of memory" not in log

    play(tmp_path, scenario, kill_grace_s=kill_grace_s)


def test_dropped_task_is_stopped_and_never_reported(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        lab.bridge.drop = (JobRef(job_id=JobId(job_id), fence=Fence(1)),)
        lab.bridge.broker.cut(CLIENT_ID)
        lab.bridge.broker.restore(CLIENT_ID)
        await lab.worker._jobs.wait_until(lambda held: not len(held))
        assert not lab.bridge.of(Finished)

    play(tmp_path, scenario, kill_grace_s=1.0)


def test_task_is_stopped_when_the_lease_ends_during_an_outage(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for", lease_s=9.0))
        await lab.log_line(job_id, "tick 1")
        lab.bridge.broker.cut(CLIENT_ID)
        await lab.worker._jobs.wait_until(lambda held: not held.list_supervised())
        lab.bridge.broker.restore(CLIENT_ID)
        result = await lab.bridge.result(job_id)
        assert "out of reach for longer than offline_grace" in result.error
        await lab.log_line(job_id, "Stopped by the edge worker")

    play(tmp_path, scenario, kill_grace_s=1.0, presence_interval_s=1.0)


def test_interrupt_finishes_the_running_task_and_takes_no_other(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        lab.worker.request_stop(StopSignal.INTERRUPT)
        await lab.bridge.until(lambda: lab.bridge.of(Presence, lambda m: m.state is WorkerState.DRAINING))
        lab.bridge.assign(task_job("hello"))
        rejected = (await lab.bridge.until(lambda: lab.bridge.of(AssignmentRejected)))[0]
        assert (rejected.reason, rejected.permanent) == ("this worker is draining", False)
        lab.until_file.touch()
        assert (await lab.bridge.result(job_id)).exit_code == 0
        await lab.bridge.until(lambda: lab.bridge.of(Presence, lambda m: m.state is WorkerState.OFFLINE))

    assert play(tmp_path, scenario, ask=None) is ExitCode.DONE


def test_second_interrupt_stops_the_running_task_and_reports_it(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        lab.worker.request_stop(StopSignal.INTERRUPT)
        lab.worker.request_stop(StopSignal.INTERRUPT)
        result = await lab.bridge.result(job_id)
        assert result.error == "the worker was told to stop"

    assert play(tmp_path, scenario, ask=None, kill_grace_s=1.0) is ExitCode.FAILED


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (RefusalReason.NOT_AUTHORIZED, ExitCode.REFUSED),
        (RefusalReason.SERVER_CERTIFICATE, ExitCode.REFUSED),
        (RefusalReason.NAME_IN_USE, ExitCode.NAME_IN_USE),
        (RefusalReason.PROTOCOL_VERSION, ExitCode.PROTOCOL_VERSION),
    ],
)
def test_refusal_ends_the_worker_with_its_own_exit_code(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, reason: RefusalReason, code: ExitCode
) -> None:
    async def scenario(lab: Lab) -> None:
        lab.bridge.broker.cut(CLIENT_ID)
        lab.bridge.broker.refuse(CLIENT_ID, Refusal(reason=reason, message="one clear line"))
        lab.bridge.broker.restore(CLIENT_ID)

    assert play(tmp_path, scenario, ask=None) is code
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == ["one clear line"]
