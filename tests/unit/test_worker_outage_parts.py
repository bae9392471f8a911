"""What must hold on a worker in outages and crashes: its lease, its calls, what dead supervisors leave."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import psutil
import pytest

from edge_mqtt.broker_bridge.protocol import codec
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.lease import LEASE_MARGIN_S
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    ApiResponse,
    JobSpec,
    PresenceAck,
    StartRequest,
    Welcome,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.broker_bridge.transport.port import MessageChannel
from edge_mqtt.worker.core.jobs import HeldByUs, JobState
from edge_mqtt.worker.core.lease import Lease
from edge_mqtt.worker.execution_api import ExecutionApi
from edge_mqtt.worker.held import HeldJobs
from edge_mqtt.worker.link import Link, WorkerAddress
from edge_mqtt.worker.order import lease_file
from edge_mqtt.worker.presence import PresenceLoop
from edge_mqtt.worker.running import RunPlan, Runs
from edge_mqtt.worker.spool import Spool
from edge_mqtt.worker.sysinfo import ProcessIdentity, boot_id, boottime, kill_orphans, start_time

ADDRESS = WorkerAddress(name=WorkerName("w"), incarnation="i", topics=Topics())
KILL_GRACE_S = 10.0


class Idle:
    """Stands for the launcher and for whom runs tell: nothing is run here."""


@asynccontextmanager
async def connected_link() -> AsyncIterator[Link]:
    link = Link(MessageChannel(MemoryTransport(MemoryBroker(), "worker:w")), ADDRESS)
    link.start()
    yield link
    link.stop()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.open(tmp_path / "spool.db")


# ---------------------------------------------------------------- the lease


def presence_loop(link: Link, held: HeldJobs, folder: Path) -> PresenceLoop:
    plan = RunPlan(
        worker="w", concurrency=1, runs_dir=folder, socket_path=folder / "api.sock", base_log_folder=folder / "logs"
    )
    runs = Runs(plan, held, cast("Any", Idle()), cast("Any", Idle()))
    return PresenceLoop(link, held, runs, version="0", queues=("q",), state=lambda: WorkerState.ONLINE)


def play(tmp_path: Path, spool: Spool, scenario: Callable[[Link, PresenceLoop], Awaitable[None]]) -> None:
    async def run() -> None:
        async with connected_link() as link:
            held = HeldJobs(spool)
            await scenario(link, presence_loop(link, held, tmp_path))
            held.close()

    asyncio.run(asyncio.wait_for(run(), 20))


async def launch(held: HeldJobs) -> None:
    spec = JobSpec(job_id=JobId("j"), type=WorkloadType.TASK, queue="q", workload={})
    job = HeldByUs(spec=spec, fence=Fence(1), state=JobState.LAUNCHED, secret="s")
    await held.change(job.job_id, lambda _: job)


def welcome(link: Link, offline_grace_s: float) -> Welcome:
    return Welcome(
        incarnation=ADDRESS.incarnation,
        connection=link.connection,
        offline_grace_s=offline_grace_s,
        kill_grace_s=KILL_GRACE_S,
        presence_interval_s=20.0,
    )


def ack(link: Link, sequence: int) -> PresenceAck:
    return PresenceAck(incarnation=ADDRESS.incarnation, connection=link.connection, sequence=sequence)


def seconds_left(folder: Path) -> float:
    """Return the seconds from now to the end of the lease that is on disk."""
    lease = Lease.from_json(lease_file(folder).read_bytes())
    assert lease is not None
    return lease.stop_at - boottime()


def test_lease_is_of_the_grace_that_the_centre_grants_now(tmp_path: Path, spool: Spool) -> None:
    async def scenario(link: Link, presence: PresenceLoop) -> None:
        presence.connected()
        presence.welcomed(welcome(link, 900.0))
        assert seconds_left(tmp_path) == pytest.approx(900.0 - KILL_GRACE_S - LEASE_MARGIN_S, abs=5)
        # The bridge was started again with a shorter one. Its confirmation may overtake its welcome.
        presence.connected()
        presence.confirmed(ack(link, 0))
        presence.welcomed(welcome(link, 60.0))
        assert seconds_left(tmp_path) == pytest.approx(60.0 - KILL_GRACE_S - LEASE_MARGIN_S, abs=5)

    play(tmp_path, spool, scenario)


def test_lease_is_not_shortened_by_the_confirmation_of_an_earlier_presence(tmp_path: Path, spool: Spool) -> None:
    async def scenario(link: Link, presence: PresenceLoop) -> None:
        presence.connected()
        presence.welcomed(welcome(link, 900.0))
        link.ready = True
        presence.changed()
        presence.confirmed(ack(link, 1))
        latest = lease_file(tmp_path).read_bytes()
        presence.confirmed(ack(link, 0))
        assert lease_file(tmp_path).read_bytes() == latest

    play(tmp_path, spool, scenario)


@pytest.mark.parametrize("permitted", [True, False])
def test_job_of_a_worker_that_was_idle_has_the_lease_of_its_own_permission(
    tmp_path: Path, spool: Spool, permitted: bool
) -> None:
    async def scenario(link: Link, presence: PresenceLoop) -> None:
        presence.connected()
        presence.welcomed(welcome(link, 900.0))
        # An idle worker says nothing: this lease ends one day, when there is nothing to stop.
        assert presence._valid_lease() is not None
        await launch(presence._held)
        assert presence._valid_lease() is None
        asked_at = boottime()
        if permitted:
            presence.permitted(asked_at)
        else:
            presence.confirmed(ack(link, 0))
        lease = presence._valid_lease()
        expected = asked_at + 900.0 - KILL_GRACE_S - LEASE_MARGIN_S
        assert (None if lease is None else lease.stop_at) == (expected if permitted else None)

    play(tmp_path, spool, scenario)


def test_restarted_worker_goes_by_the_lease_that_its_running_jobs_had(tmp_path: Path, spool: Spool) -> None:
    left = Lease(stop_at=1.0, kill_at=2.0)
    lease_file(tmp_path).write_bytes(left.to_json())
    asyncio.run(launch(HeldJobs(spool)))

    async def scenario(_: Link, presence: PresenceLoop) -> None:
        assert presence._valid_lease() == left

    play(tmp_path, spool, scenario)


# ---------------------------------------------------------------- calls


def large_call(size: int) -> ApiRequest:
    return ApiRequest(
        request_id="r",
        job_id=JobId("j"),
        fence=Fence(1),
        method="POST",
        target="xcoms/d/r/t/k",
        body=os.urandom(size),
    )


@pytest.mark.parametrize("ready", [True, False])
def test_call_that_is_too_large_is_refused_whether_or_not_it_waited_for_the_link(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    monkeypatch.setattr(codec, "MAX_MESSAGE_BYTES", 200_000)

    async def scenario() -> None:
        async with connected_link() as link:
            held = HeldJobs(spool)
            api = ExecutionApi(held, link, stop_reason=lambda _: None, permitted=lambda _: None)
            link.ready = ready
            waiting = asyncio.create_task(api._ask_centre(large_call(300_000)))
            await asyncio.sleep(0)
            link.ready = True
            api.resend()
            response = await waiting
            held.close()
        assert response.status == 413
        assert b"over the limit of 200000 bytes" in response.body

    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize(
    ("request_", "status", "permits"),
    [
        (large_call(10).model_copy(update={"method": "PATCH", "target": "task-instances/x/run"}), 200, True),
        (large_call(10).model_copy(update={"method": "PATCH", "target": "task-instances/x/run"}), 409, False),
        (large_call(10), 200, False),
        (StartRequest(request_id="r", job_id=JobId("j"), fence=Fence(1)), 200, True),
    ],
)
def test_permission_to_start_counts_from_when_it_was_asked_for_first(
    spool: Spool, request_: ApiRequest | StartRequest, status: int, permits: bool
) -> None:
    permitted: list[float] = []

    async def scenario() -> None:
        async with connected_link() as link:
            held = HeldJobs(spool)
            api = ExecutionApi(held, link, stop_reason=lambda _: None, permitted=permitted.append)
            link.ready = True
            waiting = asyncio.create_task(api._ask_centre(request_))
            await asyncio.sleep(0)
            asked_by = boottime()
            api.resend()
            api.answered(ApiResponse(request_id="r", status=status))
            api.answered(ApiResponse(request_id="r", status=status))
            assert (await waiting).status == status
            held.close()
        assert [asked_at <= asked_by for asked_at in permitted] == [True] * permits

    asyncio.run(asyncio.wait_for(scenario(), 20))


# ---------------------------------------------------------------- what dead supervisors leave

#: A session's leader with a child that outlives it; prints the child's pid.
LEADER = """
import os, subprocess, sys, time
os.setsid()
print(subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL).pid, flush=True)
time.sleep(600)
"""


def start_leader() -> tuple[subprocess.Popen[str], ProcessIdentity, psutil.Process]:
    leader = subprocess.Popen([sys.executable, "-c", LEADER], stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    child = psutil.Process(int(leader.stdout.readline()))
    leader.stdout.close()
    return leader, ProcessIdentity(pid=leader.pid, start=start_time(leader.pid) or 0, boot=boot_id()), child


def test_what_a_killed_supervisor_leaves_is_killed() -> None:
    leader, identity, child = start_leader()
    leader.kill()
    leader.wait()
    assert child.is_running()
    assert kill_orphans(identity) == 1
    gone, _ = psutil.wait_procs([child], timeout=10)
    assert gone == [child] or child.status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("boot", ["", "another"])
def test_nothing_is_killed_for_a_supervisor_that_lives_or_is_of_another_boot(boot: str) -> None:
    leader, identity, child = start_leader()
    try:
        assert kill_orphans(identity) == 0
        leader.kill()
        leader.wait()
        assert kill_orphans(ProcessIdentity(pid=identity.pid, start=identity.start, boot=boot)) == 0
        assert child.is_running()
    finally:
        leader.kill()
        leader.wait()
        child.kill()
