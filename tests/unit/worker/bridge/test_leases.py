"""When a worker tells that it is there, and what its leases count from."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    JobSpec,
    Presence,
    PresenceAck,
    Welcome,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.worker.bridge.clock_watch import ClockWatch
from edge_mqtt.worker.bridge.lease_guard import LeaseGuard
from edge_mqtt.worker.bridge.presence import PresenceLoop
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.core.lease import Contact
from edge_mqtt.worker.ipc.contact_file import contact_path
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.system.boot_clock import boottime
from tests.support.scenario_worker_parts import ADDRESS, connected_link

KILL_GRACE_S = 10.0
LEASE_S = 900.0


class Idle:
    """Stands for the launcher and for the listener to runs: nothing is run here."""


class LeaseScene:
    """A presence loop and a lease guard with a spool on disk, on a link of memory."""

    def __init__(self, folder: Path, spool: Spool, link: Link) -> None:
        plan = RunPlan(
            worker="w",
            concurrency=1,
            runs_dir=folder,
            socket_path=folder / "api.sock",
            base_log_folder=folder / "logs",
        )
        self.link = link
        self.jobs = JobStore(spool)
        self.supervisors = Supervisors(plan, self.jobs, cast("Any", Idle()), cast("Any", Idle()))
        self.guard = LeaseGuard(self.jobs, self.supervisors)
        self.presence = PresenceLoop(
            link,
            self.jobs,
            version="0",
            queues=("q",),
            concurrency=1,
            state=lambda: WorkerState.ONLINE,
            record_contact=self.guard.record_contact,
            clock=ClockWatch(),
        )

    def welcome(self, presence_interval_s: float = 20.0) -> None:
        """Be welcomed by the bridge."""
        self.supervisors.kill_grace_s = KILL_GRACE_S
        self.presence.record_welcome(
            Welcome(
                incarnation=ADDRESS.incarnation,
                connection=self.link.connection,
                kill_grace_s=KILL_GRACE_S,
                presence_interval_s=presence_interval_s,
            )
        )

    def confirm(self, sequence: int) -> None:
        """Have a presence confirmed by the bridge."""
        self.presence.record_ack(
            PresenceAck(incarnation=ADDRESS.incarnation, connection=self.link.connection, sequence=sequence)
        )


def play(tmp_path: Path, spool: Spool, scenario: Callable[[LeaseScene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with connected_link() as link:
            scene = LeaseScene(tmp_path, spool, link)
            await scenario(scene)
            scene.jobs.close()

    asyncio.run(asyncio.wait_for(run(), 20))


async def launch(jobs: JobStore) -> None:
    spec = JobSpec(job_id=JobId("j"), type=WorkloadType.TASK, queue="q", workload={})
    job = LocalJob(spec=spec, fence=Fence(1), lease_s=LEASE_S, state=LocalJobState.LAUNCHED, secret="s")
    await jobs.change_job(job.job_id, lambda _: job)


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool.open(tmp_path / "spool.db")


def contact_on_disk(folder: Path) -> Contact:
    contact = Contact.from_json(contact_path(folder).read_bytes(), now=boottime())
    assert contact is not None
    return contact


def test_leases_count_from_when_the_confirmed_presence_was_sent(tmp_path: Path, spool: Spool) -> None:
    async def scenario(scene: LeaseScene) -> None:
        before = boottime()
        scene.presence.introduce_worker()
        sent_by = boottime()
        scene.welcome()
        contact = contact_on_disk(tmp_path)
        assert before <= contact.confirmed_at <= sent_by
        assert contact.kill_grace_s == KILL_GRACE_S

    play(tmp_path, spool, scenario)


def test_leases_are_not_shortened_by_the_confirmation_of_an_earlier_presence(tmp_path: Path, spool: Spool) -> None:
    async def scenario(scene: LeaseScene) -> None:
        scene.presence.introduce_worker()
        scene.welcome()
        scene.link.ready = True
        scene.presence.announce_change()
        scene.confirm(1)
        latest = contact_on_disk(tmp_path)
        scene.confirm(0)
        assert contact_on_disk(tmp_path) == latest

    play(tmp_path, spool, scenario)


@pytest.mark.parametrize("permitted", [True, False])
def test_job_of_a_worker_that_was_idle_has_the_lease_of_its_own_permission(
    tmp_path: Path, spool: Spool, permitted: bool
) -> None:
    async def scenario(scene: LeaseScene) -> None:
        scene.presence.introduce_worker()
        scene.welcome()
        # An idle worker says nothing: this contact grows old while there is nothing to stop.
        assert scene.guard._valid_contact() is not None
        await launch(scene.jobs)
        assert scene.guard._valid_contact() is None
        asked_at = boottime()
        if permitted:
            scene.guard.record_contact(asked_at)
        else:
            scene.confirm(0)
        contact = scene.guard._valid_contact()
        assert (None if contact is None else contact.confirmed_at) == (asked_at if permitted else None)

    play(tmp_path, spool, scenario)


def test_job_of_a_worker_that_was_idle_and_dies_before_the_permission_has_a_lease_of_its_own(
    tmp_path: Path, spool: Spool
) -> None:
    contact_path(tmp_path).write_bytes(Contact(confirmed_at=-5000.0, kill_grace_s=1.0).to_json())

    async def scenario(scene: LeaseScene) -> None:
        launched_after = boottime()
        await launch(scene.jobs)
        assert contact_on_disk(tmp_path).confirmed_at >= launched_after

    play(tmp_path, spool, scenario)


@pytest.mark.parametrize("confirmed_at", [1.0, -5000.0])
def test_restarted_worker_goes_by_the_contact_that_its_running_jobs_had(
    tmp_path: Path, spool: Spool, confirmed_at: float
) -> None:
    left = Contact(confirmed_at=confirmed_at, kill_grace_s=1.0)
    contact_path(tmp_path).write_bytes(left.to_json())
    asyncio.run(launch(JobStore(spool)))

    async def scenario(scene: LeaseScene) -> None:
        assert scene.guard._valid_contact() == left

    play(tmp_path, spool, scenario)


def test_worker_whose_last_job_has_gone_says_nothing_more(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(scene: LeaseScene) -> None:
        said: list[Presence] = []

        def say(message: Presence) -> bool:
            said.append(message)
            return True

        monkeypatch.setattr(scene.link, "send_presence", say)
        scene.link.ready = True
        scene.welcome(presence_interval_s=0.02)
        await launch(scene.jobs)
        running = asyncio.create_task(scene.presence.run())
        while not said:  # noqa: ASYNC110 -- nothing but the loop under test knows when
            await asyncio.sleep(0)
        await scene.jobs.change_job(JobId("j"), lambda _: None)
        while not scene.presence._is_quiet:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0)
        running.cancel()
        assert all(message.jobs for message in said)

    play(tmp_path, spool, scenario)
