"""A stop is over when everything is gone, and not when it was told to go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.worker.ipc.run_files import RunFiles
from edge_mqtt.worker.runs import stopping
from edge_mqtt.worker.runs.stopping import RunningSupervisor, stop_supervisor
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.killing import NOTHING, Killed
from edge_mqtt.worker.system.process import ProcessIdentity
from edge_mqtt.worker.timing import WorkerTiming
from tests.support.scenario_worker_parts import JOB_ID, Log, Scene, hear_worker, launched_job, play

STUCK = Killed(left=("4711 (nobody, python)",))
QUICK = WorkerTiming(refused_before_kill_s=0.0, supervisor_end_s=0.01, kill_repeat_s=0.01)

log = pytest.fixture(hear_worker)


def test_slot_is_kept_until_what_cannot_be_killed_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = RunFiles.of(tmp_path, JobId("j"), Fence(1), "4e5f6071")
    supervisor = RunningSupervisor(
        identity=ProcessIdentity.of_this(), files=files, is_ours=False, stop_reason="marked failed"
    )
    tries: list[int] = []
    told: list[Killed] = []

    def kill(_identity: ProcessIdentity, _group: RunCgroup) -> Killed:
        tries.append(1)
        return STUCK if len(tries) < 4 else NOTHING

    async def scenario() -> None:
        loop = asyncio.get_running_loop()

        def kill_and_end(identity: ProcessIdentity, group: RunCgroup) -> Killed:
            killed = kill(identity, group)
            if not killed.left:
                loop.call_soon_threadsafe(supervisor.exited.set)
            return killed

        monkeypatch.setattr(stopping, "ask_to_end", lambda _identity: None)
        monkeypatch.setattr(stopping, "kill_below", kill)
        monkeypatch.setattr(stopping, "kill_tree", kill_and_end)
        await asyncio.wait_for(stop_supervisor(supervisor, 0.0, QUICK, told.append), 30)

    asyncio.run(scenario())
    assert len(tries) == 4
    assert told == [STUCK] * 3
    assert files.stop_asked() is not None


def test_job_whose_supervisor_has_ended_is_not_over_before_what_it_left_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: Log
) -> None:
    from edge_mqtt.worker.runs import leftovers

    stuck = True

    def kill(_identity: ProcessIdentity, _group: RunCgroup) -> Killed:
        return STUCK if stuck else Killed(count=2)

    async def scenario(scene: Scene) -> None:
        nonlocal stuck
        monkeypatch.setattr(leftovers, "kill_orphans", kill)
        job = launched_job()
        # One that is gone, of an earlier boot.
        gone = ProcessIdentity(pid=1, start=1, boot="")
        watching = scene.supervisors.watch_supervisor(job, gone, is_ours=False)
        await log.heard("not_killed", 1)
        assert not watching.done()
        assert len(scene.supervisors) == 1
        stuck = False
        await log.heard("orphans_killed", 1)
        await watching
        assert len(scene.supervisors) == 0
        assert job.job_id == JOB_ID

    play(tmp_path, scenario, timing=QUICK)
