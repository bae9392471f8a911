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
from edge_mqtt.broker_bridge.protocol.codec import Decoder, encode
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    ApiRequest,
    ApiResponse,
    JobSpec,
    Presence,
    PresenceAck,
    StartRequest,
    Welcome,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport, Packet
from edge_mqtt.worker.api import server as execution_api_module
from edge_mqtt.worker.api.server import REPEAT_S, ExecutionApiServer, _Call
from edge_mqtt.worker.bridge.presence import PresenceLoop
from edge_mqtt.worker.core.job import LocalJob, LocalJobState
from edge_mqtt.worker.core.lease import Contact
from edge_mqtt.worker.ipc.run_files import contact_file
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link, Received, WorkerAddress
from edge_mqtt.worker.runs.run_plan import RunPlan
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.system.boot_clock import boot_id, boottime
from edge_mqtt.worker.system.process import ProcessIdentity, kill_orphans, start_time

ADDRESS = WorkerAddress(name=WorkerName("w"), incarnation="i", topics=Topics())
KILL_GRACE_S = 10.0
LEASE_S = 900.0


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


def presence_loop(link: Link, held: JobStore, folder: Path) -> PresenceLoop:
    plan = RunPlan(
        worker="w", concurrency=1, runs_dir=folder, socket_path=folder / "api.sock", base_log_folder=folder / "logs"
    )
    runs = Supervisors(plan, held, cast("Any", Idle()), cast("Any", Idle()))
    return PresenceLoop(link, held, runs, version="0", queues=("q",), state=lambda: WorkerState.ONLINE)


def play(tmp_path: Path, spool: Spool, scenario: Callable[[Link, PresenceLoop], Awaitable[None]]) -> None:
    async def run() -> None:
        async with connected_link() as link:
            held = JobStore(spool)
            await scenario(link, presence_loop(link, held, tmp_path))
            held.close()

    asyncio.run(asyncio.wait_for(run(), 20))


async def launch(held: JobStore) -> None:
    spec = JobSpec(job_id=JobId("j"), type=WorkloadType.TASK, queue="q", workload={})
    job = LocalJob(spec=spec, fence=Fence(1), lease_s=LEASE_S, state=LocalJobState.LAUNCHED, secret="s")
    await held.change(job.job_id, lambda _: job)


def welcome(link: Link) -> Welcome:
    return Welcome(
        incarnation=ADDRESS.incarnation,
        connection=link.connection,
        kill_grace_s=KILL_GRACE_S,
        presence_interval_s=20.0,
    )


def ack(link: Link, sequence: int) -> PresenceAck:
    return PresenceAck(incarnation=ADDRESS.incarnation, connection=link.connection, sequence=sequence)


def contact_on_disk(folder: Path) -> Contact:
    contact = Contact.from_json(contact_file(folder).read_bytes(), now=boottime())
    assert contact is not None
    return contact


def test_leases_count_from_when_the_confirmed_presence_was_sent(tmp_path: Path, spool: Spool) -> None:
    async def scenario(link: Link, presence: PresenceLoop) -> None:
        before = boottime()
        presence.connected()
        sent_by = boottime()
        presence.welcomed(welcome(link))
        contact = contact_on_disk(tmp_path)
        assert before <= contact.confirmed_at <= sent_by
        assert contact.kill_grace_s == KILL_GRACE_S

    play(tmp_path, spool, scenario)


def test_leases_are_not_shortened_by_the_confirmation_of_an_earlier_presence(tmp_path: Path, spool: Spool) -> None:
    async def scenario(link: Link, presence: PresenceLoop) -> None:
        presence.connected()
        presence.welcomed(welcome(link))
        link.ready = True
        presence.changed()
        presence.confirmed(ack(link, 1))
        latest = contact_on_disk(tmp_path)
        presence.confirmed(ack(link, 0))
        assert contact_on_disk(tmp_path) == latest

    play(tmp_path, spool, scenario)


@pytest.mark.parametrize("permitted", [True, False])
def test_job_of_a_worker_that_was_idle_has_the_lease_of_its_own_permission(
    tmp_path: Path, spool: Spool, permitted: bool
) -> None:
    async def scenario(link: Link, presence: PresenceLoop) -> None:
        presence.connected()
        presence.welcomed(welcome(link))
        # An idle worker says nothing: this contact grows old while there is nothing to stop.
        assert presence._valid_contact() is not None
        await launch(presence._held)
        assert presence._valid_contact() is None
        asked_at = boottime()
        if permitted:
            presence.permitted(asked_at)
        else:
            presence.confirmed(ack(link, 0))
        contact = presence._valid_contact()
        assert (None if contact is None else contact.confirmed_at) == (asked_at if permitted else None)

    play(tmp_path, spool, scenario)


def test_job_of_a_worker_that_was_idle_and_dies_before_the_permission_has_a_lease_of_its_own(
    tmp_path: Path, spool: Spool
) -> None:
    contact_file(tmp_path).write_bytes(Contact(confirmed_at=-5000.0, kill_grace_s=1.0).to_json())

    async def scenario(_: Link, presence: PresenceLoop) -> None:
        launched_after = boottime()
        await launch(presence._held)
        assert contact_on_disk(tmp_path).confirmed_at >= launched_after

    play(tmp_path, spool, scenario)


@pytest.mark.parametrize("confirmed_at", [1.0, -5000.0])
def test_restarted_worker_goes_by_the_contact_that_its_running_jobs_had(
    tmp_path: Path, spool: Spool, confirmed_at: float
) -> None:
    left = Contact(confirmed_at=confirmed_at, kill_grace_s=1.0)
    contact_file(tmp_path).write_bytes(left.to_json())
    asyncio.run(launch(JobStore(spool)))

    async def scenario(_: Link, presence: PresenceLoop) -> None:
        assert presence._valid_contact() == left

    play(tmp_path, spool, scenario)


def test_worker_whose_last_job_has_gone_says_nothing_more(
    tmp_path: Path, spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(link: Link, presence: PresenceLoop) -> None:
        said: list[Presence] = []

        def say(message: Presence) -> bool:
            said.append(message)
            return True

        monkeypatch.setattr(link, "send_presence", say)
        link.ready = True
        presence.welcomed(welcome(link).model_copy(update={"presence_interval_s": 0.02}))
        await launch(presence._held)
        running = asyncio.create_task(presence.run())
        while not said:  # noqa: ASYNC110 -- nothing but the loop under test knows when
            await asyncio.sleep(0)
        await presence._held.change(JobId("j"), lambda _: None)
        while not presence._quiet:  # noqa: ASYNC110 -- as above
            await asyncio.sleep(0)
        running.cancel()
        assert all(message.jobs for message in said)

    play(tmp_path, spool, scenario)


# ---------------------------------------------------------------- calls


def execution_api(
    held: JobStore, link: Link, *, permitted: Callable[[float], None] = lambda _: None
) -> ExecutionApiServer:
    return ExecutionApiServer(held, link, stop_reason=lambda _: None, permitted=permitted, heard=lambda _: None)


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
            held = JobStore(spool)
            api = execution_api(held, link)
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
            held = JobStore(spool)
            api = execution_api(held, link, permitted=permitted.append)
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


def test_call_of_which_only_a_part_arrives_is_not_passed_on(spool: Spool) -> None:
    events = iter(
        [{"type": "http.request", "body": b'{"half', "more_body": True}, {"type": "http.disconnect"}],
    )
    sent: list[object] = []
    scope = {
        "method": "POST",
        "raw_path": b"/execution/xcoms/d/r/t/k",
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer s"), (b"x-request-id", b"r")],
    }

    async def receive() -> dict[str, Any]:
        return next(events)

    async def send(event: object) -> None:
        sent.append(event)

    async def scenario() -> None:
        async with connected_link() as link:
            held = JobStore(spool)
            await launch(held)
            api = execution_api(held, link)
            await api.app(scope, receive, cast("Any", send))
            assert not api.waiting()
            assert not sent
            held.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def listening_link() -> tuple[MemoryBroker, Link]:
    broker = MemoryBroker()
    link = Link(MessageChannel(MemoryTransport(broker, "worker:w", ADDRESS.subscriptions)), ADDRESS)
    link.start()
    link.ready = True
    return broker, link


@pytest.mark.parametrize(
    "request_",
    [large_call(10), StartRequest(request_id="r", job_id=JobId("j"), fence=Fence(1))],
    ids=["call", "start"],
)
@pytest.mark.parametrize("lost", ["request", "answer"])
def test_call_that_is_lost_on_a_live_connection_is_sent_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, request_: ApiRequest | StartRequest, lost: str
) -> None:
    monkeypatch.setattr(execution_api_module, "REPEAT_S", 0.05)

    async def scenario() -> None:
        broker, link = listening_link()
        dropped: list[str] = []

        def lose_first(packet: Packet) -> bool:
            if dropped or not packet.topic.endswith(lost.replace("answer", "response")):
                return False
            dropped.append(packet.topic)
            return True

        broker.lose(lose_first)
        asked: list[ApiRequest | StartRequest] = []
        decoder = Decoder()

        def answer(topic: str, payload: bytes) -> None:
            message = decoder.feed(topic, payload)
            assert isinstance(message, ApiRequest | StartRequest)
            asked.append(message)
            response = ApiResponse(request_id=message.request_id, status=200)
            for packet in encode(response):
                broker.publish(ADDRESS.topics.rpc_response(ADDRESS.name), packet, qos=1, retain=False)

        broker.subscribe([ADDRESS.topics.rpc_request(ADDRESS.name)], answer)
        held = JobStore(spool)
        api = execution_api(held, link)

        async def hear() -> None:
            while True:
                event = await link.events.get()
                if isinstance(event, Received) and isinstance(event.message, ApiResponse):
                    api.answered(event.message)

        parts = [asyncio.create_task(api.repeat()), asyncio.create_task(hear())]
        assert (await api._ask_centre(request_)).status == 200
        assert len(dropped) == 1
        assert {message.request_id for message in asked} == {"r"}
        assert len(asked) == (1 if lost == "request" else 2)
        # The bridge may be another by now, that does not know what became of the first.
        assert isinstance(asked[-1], StartRequest) or asked[-1].repeated
        for part in parts:
            part.cancel()
        held.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_large_call_is_not_sent_again_while_it_may_still_be_on_its_way() -> None:
    small, large = (_Call(large_call(size), cast("Any", None), repeated_at=100.0) for size in (10, 1_000_000))
    assert not small.is_overdue(100.0 + REPEAT_S - 1.0)
    assert small.is_overdue(100.0 + REPEAT_S + 1.0)
    assert not large.is_overdue(100.0 + REPEAT_S + 60.0)
    assert large.is_overdue(100.0 + REPEAT_S + 62.0)


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
