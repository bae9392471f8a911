"""The bridge's ledger is lost, or yesterday's comes back: Airflow learns what is forgotten, nothing runs twice."""

from __future__ import annotations

import queue
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest

from edge_mqtt.broker_bridge.protocol.ids import JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import (
    Assign,
    AssignmentAccepted,
    Finished,
    HeldJob,
    JobFinished,
    JobRef,
    JobSpec,
    JobStarted,
    Message,
    Outcome,
    Presence,
    ReportedJobState,
    StartRequest,
    Welcome,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import client_context
from edge_mqtt.executor.bridge_client import BridgeClient
from edge_mqtt.executor.connect import prepare_connection
from edge_mqtt.executor.outbox import News, UnknownJobs
from edge_mqtt.executor.settings import ExecutorSettings
from tests.support.bridge_program import Site, free_port, wait_until_healthy
from tests.support.fixed_context import FixedContext

TOPICS = Topics()
PATIENCE_S = 60.0
LAB = WorkerName("lab-3")

M = TypeVar("M", bound=Message)


def wait_until(condition: Callable[[], object]) -> None:
    """For what shows only from outside: looks often, with a limit."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


class HandMadeWorker:
    """Speaks a worker's side as a test tells it."""

    def __init__(self, certs: Path, port: int) -> None:
        identity = Identity(Role.WORKER, LAB)
        options = ConnectOptions(
            identity=identity,
            incarnation="first",
            keep_alive_s=60,
            subscriptions=(TOPICS.assignments(LAB), TOPICS.control(LAB), TOPICS.rpc_response(LAB)),
        )
        transport = PahoTransport(
            f"wss://127.0.0.1:{port}/mqtt", FixedContext(client_context(load_credentials(certs))), options
        )
        self._channel = MessageChannel(transport)
        self._inbox: queue.Queue[Message] = queue.Queue()
        self._up: queue.Queue[int] = queue.Queue()
        self._channel.start(self)

    def connected(self) -> None:
        self._up.put(self._channel.connection)

    def disconnected(self, reason: str) -> None:
        pass

    def refused(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)

    def received(self, topic: str, message: Message) -> None:
        self._inbox.put(message)

    def hello(self, *held: HeldJob) -> Welcome:
        """Wait for the next connection, say what is held, and return the answer."""
        connection = self._up.get(timeout=PATIENCE_S)
        presence = Presence(
            incarnation="first",
            connection=connection,
            state=WorkerState.ONLINE,
            queues=("q",),
            concurrency=4,
            jobs=held,
        )
        self._channel.send(TOPICS.presence(LAB), presence, retain=True)
        return self.expect(Welcome)

    def expect(self, kind: type[M]) -> M:
        while True:
            message = self._inbox.get(timeout=PATIENCE_S)
            if isinstance(message, kind):
                return message

    def begin(self) -> Assign:
        """Accept the next assignment and start it."""
        assign = self.expect(Assign)
        job_id, fence = assign.job.job_id, assign.fence
        self._channel.send(TOPICS.acks(LAB), AssignmentAccepted(job_id=job_id, fence=fence))
        start = StartRequest(request_id=f"start-{job_id}", job_id=job_id, fence=fence)
        self._channel.send(TOPICS.rpc_request(LAB), start)
        return assign

    def finish(self, assign: Assign) -> None:
        """Report a success."""
        result = Finished(job_id=assign.job.job_id, fence=assign.fence, exit_code=0)
        self._channel.send(TOPICS.results(LAB), result)

    def stop(self) -> None:
        self._channel.stop()


class Centre:
    """A real bridge that can be killed and given another ledger; an executor's link and a worker stay with it."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._ports = free_port(), free_port()
        self.ledger = site.folder / "ledger" / "ledger.db"
        self.start()
        now = datetime.now(UTC)
        me, worker = Identity(Role.EXECUTOR, "main"), Identity(Role.WORKER, LAB)
        for identity in (me, worker):
            site.certificates.issue(identity, force=False, now=now)
        settings = ExecutorSettings(
            bridge_url=f"wss://127.0.0.1:{self._ports[0]}/mqtt",
            certs=site.certificates.folder(me),
            topic_prefix="edge",
            keep_alive_s=60,
            max_message_bytes=1024 * 1024,
            default_queue="default",
            callback_queue="",
            queued_timeout_s=600,
            unclaimed_for_s=600,
        )
        self.link = BridgeClient(lambda: prepare_connection(settings, incarnation="one"), topics=TOPICS)
        self.link.start()
        self.worker = HandMadeWorker(site.certificates.folder(worker), self._ports[0])

    def start(self) -> None:
        port, health_port = self._ports
        self._process: subprocess.Popen[str] = self._site.start(
            *("--host", "127.0.0.1", "--ledger-url", f"sqlite:///{self.ledger}"),
            *("--log-folder", str(self._site.folder / "logs")),
            port=port,
            health_port=health_port,
        )
        wait_until_healthy(health_port)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self.worker.stop()
        self.link.stop()

    def submit(self, name: str, *, held: bool = True) -> JobId:
        """Hand over a job and wait until the bridge has it."""
        job_id = JobId(name)
        job = JobSpec(job_id=job_id, type=WorkloadType.CALLBACK, queue="q" if held else "nobody")
        self.link.submit(job, "a.b.c")
        wait_until(lambda: self.link.flush(timeout_s=1.0))
        return job_id

    def wait_for_row(self, job_id: JobId, **columns: object) -> None:
        """Wait until the job's row in the ledger has these values."""
        query = f"SELECT {', '.join(columns)} FROM jobs WHERE job_id = ?"  # noqa: S608  a test's own words

        def has_them() -> bool:
            connection = sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True, timeout=5.0)
            try:
                return connection.execute(query, (job_id,)).fetchall() == [tuple(columns.values())]
            finally:
                connection.close()

        wait_until(has_them)

    def news(self, kind: type[News]) -> News:
        """Return the next news of a kind, passing over others."""
        found: list[News] = []

        def has_come() -> bool:
            found.extend(item for item in self.link.read_news() if isinstance(item, kind))
            return bool(found)

        wait_until(has_come)
        return found[0]


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    site = Site(tmp_path)
    running = Centre(site)
    yield running
    running.close()
    for process in site.started:
        process.kill()
        process.communicate()


def test_a_lost_ledger_fails_what_was_accepted_and_stops_it_on_the_edge(centre: Centre) -> None:
    centre.worker.hello()
    running, waiting = centre.submit("running"), centre.submit("waiting", held=False)
    assign = centre.worker.begin()
    assert isinstance(centre.news(JobStarted), JobStarted)
    centre.kill()
    shutil.rmtree(centre.ledger.parent)
    centre.start()
    unknown = centre.news(UnknownJobs)
    assert unknown == UnknownJobs((running, waiting), forgotten=True)
    welcome = centre.worker.hello(HeldJob(job_id=running, fence=assign.fence, state=ReportedJobState.RUNNING))
    assert welcome.drop == (JobRef(job_id=running, fence=assign.fence),)
    # A submission that was still on its way when Airflow was told.
    centre.link.submit(JobSpec(job_id=waiting, type=WorkloadType.CALLBACK, queue="q"), "a.b.c")
    denied = centre.news(JobFinished)
    assert isinstance(denied, JobFinished)
    assert (denied.job_id, denied.outcome) == (waiting, Outcome.LOST)


def test_yesterday_s_ledger_goes_on_with_what_it_has_and_airflow_learns_what_it_never_had(centre: Centre) -> None:
    centre.worker.hello()
    centre.submit("kept", held=False)
    over = centre.submit("over")
    assign = centre.worker.begin()
    centre.news(JobStarted)
    centre.kill()
    backup = centre.ledger.parent.with_name("backup")
    shutil.copytree(centre.ledger.parent, backup)
    centre.start()
    centre.worker.hello(HeldJob(job_id=over, fence=assign.fence, state=ReportedJobState.RUNNING))
    centre.worker.finish(assign)
    finished = centre.news(JobFinished)
    assert isinstance(finished, JobFinished)
    assert finished.outcome is Outcome.SUCCESS
    centre.link.acknowledge(over)
    newer = centre.submit("newer", held=False)
    centre.kill()
    shutil.rmtree(centre.ledger.parent)
    backup.rename(centre.ledger.parent)
    centre.start()
    assert centre.news(UnknownJobs) == UnknownJobs((newer,), forgotten=True)
    # What is over runs in the old ledger. Its worker has it no more: it ends anew, and nobody is troubled with it.
    centre.worker.hello()
    centre.wait_for_row(over, state="finished", outcome="lost", event_acked=1)
    centre.wait_for_row(JobId("kept"), state="queued", outcome=None, event_acked=0)
    assert centre.link.read_news() == []
