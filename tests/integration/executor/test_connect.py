"""The executor's link over its real transport: certificates, TLS, WebSockets and the embedded broker."""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

# Before Airflow's first import, which reads it.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import pytest

from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    AdoptReply,
    AdoptRequest,
    ExecutorHello,
    JobAccepted,
    JobSpec,
    Message,
    Submit,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import server_context
from edge_mqtt.executor.bridge_client import BridgeClient
from edge_mqtt.executor.check import check_command
from edge_mqtt.executor.connect import prepare_connection
from edge_mqtt.executor.errors import CannotConnect
from edge_mqtt.executor.settings import ExecutorSettings
from tests.support.fixed_context import FixedContext

PATIENCE_S = 20.0
TOPICS = Topics()
MY_NAME = ExecutorName("exec-1")
ME = Identity(Role.EXECUTOR, MY_NAME)

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class CountedChannel(MessageChannel):
    """Counts the packets that come, of which a large message has many."""

    packets = 0

    def received(self, topic: str, payload: bytes) -> None:
        self.packets += 1
        super().received(topic, payload)


class BridgeOverWss:
    """The embedded broker in a thread of its own, with a bridge inside that accepts every job."""

    def __init__(self, certs: Path) -> None:
        self._context = server_context(load_credentials(certs))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="bridge")
        self._thread.start()
        self.port = 0
        self.inbox: queue.Queue[Message] = queue.Queue()
        self.known: set[JobId] = set()
        self.start()

    def start(self) -> None:
        self._broker = EmbeddedBroker(
            ssl_contexts=FixedContext(self._context), topics=TOPICS, host="127.0.0.1", port=self.port
        )
        self._run(self._broker.start())
        self.port = self._broker.port
        self._channel = CountedChannel(InProcessTransport(self._broker.router, TOPICS.for_bridge()))
        self._loop.call_soon_threadsafe(self._channel.start, self)

    def stop(self) -> None:
        self._run(self._broker.stop())

    def close(self) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S)

    def expect(self, kind: type[M]) -> M:
        """Wait for a message of a kind, for as long as packets come."""
        while True:
            packets = self._channel.packets
            try:
                message = self.inbox.get(timeout=PATIENCE_S)
            except queue.Empty:
                assert self._channel.packets > packets, f"no {kind.__name__}, and nothing more comes"
                continue
            if isinstance(message, kind):
                return message

    def connected(self) -> None:
        pass

    def disconnected(self, reason: str) -> None:
        pass

    def refused(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)

    def received(self, topic: str, message: Message) -> None:
        if isinstance(message, Submit):
            self.known.add(message.job.job_id)
            self._channel.send(TOPICS.events(MY_NAME), JobAccepted(job_id=message.job.job_id))
        if isinstance(message, AdoptRequest):
            states = {job_id: "running" for job_id in message.job_ids if job_id in self.known}
            reply = AdoptReply(request_id=message.request_id, states=states)
            self._channel.send(TOPICS.admin_response(ME), reply)
        self.inbox.put(message)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("certs") / "store")
    now = datetime.now(UTC)
    made.create(hosts=["127.0.0.1", "localhost"], force=False, now=now)
    for identity in (ME, Identity(Role.WORKER, "lab-3")):
        made.issue(identity, force=False, now=now)
    made.issue(Identity(Role.EXECUTOR, "ending"), days=3, force=False, now=now)
    return made


@pytest.fixture
def bridge(store: Store) -> Iterator[BridgeOverWss]:
    running = BridgeOverWss(store.folder(Identity(Role.BRIDGE, "bridge")))
    yield running
    running.close()


def settings_for(certs: Path, port: int = 443) -> ExecutorSettings:
    return ExecutorSettings(
        bridge_url=f"wss://127.0.0.1:{port}/mqtt",
        certs=certs,
        topic_prefix="edge",
        keep_alive_s=60,
        max_message_bytes=64 * 1024 * 1024,
        default_queue="default",
        callback_queue="",
        queued_timeout_s=600,
        unclaimed_for_s=600,
    )


@pytest.fixture
def link(bridge: BridgeOverWss, store: Store) -> Iterator[BridgeClient]:
    settings = settings_for(store.folder(ME), bridge.port)
    running = BridgeClient(lambda: prepare_connection(settings, incarnation="first"), topics=TOPICS)
    running.start()
    yield running
    running.stop()


def a_job(name: str) -> JobSpec:
    return JobSpec(job_id=JobId(name), type=WorkloadType.TASK, queue="press/1 + #")


def test_jobs_reach_the_bridge_and_are_accepted_over_wss(bridge: BridgeOverWss, link: BridgeClient) -> None:
    bridge.expect(ExecutorHello)
    for number in range(50):
        link.submit(a_job(f"job-{number}"), "t")
    assert [bridge.expect(Submit).job.job_id for _ in range(50)] == [f"job-{number}" for number in range(50)]
    assert link.flush(timeout_s=PATIENCE_S)
    adoption = link.adopt([JobId("job-1"), JobId("no such job")], timeout_s=PATIENCE_S)
    assert (adoption.unknown, adoption.unanswered) == (frozenset({JobId("no such job")}), frozenset())


def test_a_job_submitted_while_the_bridge_restarts_arrives_afterwards(
    bridge: BridgeOverWss, link: BridgeClient
) -> None:
    bridge.expect(ExecutorHello)
    bridge.stop()
    link.submit(a_job("waits"), "t")
    assert link.status().unanswered == 1
    bridge.start()
    bridge.expect(ExecutorHello)
    assert bridge.expect(Submit).job.job_id == "waits"
    assert link.flush(timeout_s=PATIENCE_S)


def test_a_workload_of_fifty_megabytes_crosses_in_fragments_and_holds_nothing_back(
    bridge: BridgeOverWss, link: BridgeClient
) -> None:
    bridge.expect(ExecutorHello)
    text = "x" * 50_000_000
    large = a_job("large").model_copy(update={"workload": {"kwargs": {"text": text}}})
    link.submit(large, "t")
    link.submit(a_job("small"), "t")
    # The small one does not wait for it.
    assert bridge.expect(Submit).job.job_id == "small"
    assert bridge.expect(Submit).job == large
    assert link.flush(timeout_s=PATIENCE_S)


def test_a_submission_leaves_within_milliseconds(bridge: BridgeOverWss, link: BridgeClient) -> None:
    bridge.expect(ExecutorHello)
    delays = []
    for number in range(30):
        began = time.perf_counter()
        link.submit(a_job(f"quick-{number}"), "t")
        bridge.expect(Submit)
        delays.append(time.perf_counter() - began)
    assert sorted(delays)[15] < 0.05


def test_another_role_s_certificate_is_named_in_one_line(store: Store) -> None:
    folder = store.folder(Identity(Role.WORKER, "lab-3"))
    with pytest.raises(CannotConnect, match="belongs to worker:lab-3, not to an executor: make one with"):
        prepare_connection(settings_for(folder), incarnation="i")


def test_a_missing_folder_is_named_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CannotConnect, match=str(tmp_path)) as raised:
        prepare_connection(settings_for(tmp_path), incarnation="i")
    assert "\n" not in str(raised.value)


def test_a_certificate_that_ends_soon_is_warned_about(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    ending = Identity(Role.EXECUTOR, "ending")
    line = prepare_connection(settings_for(store.folder(ending)), incarnation="i")
    assert line.identity == ending
    assert "expires" in caplog.text
    line.transport.stop()


# ---------------------------------------------------------------- airflow edge-mqtt check


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path, int], None]:
    def to(certs: Path, port: int) -> None:
        monkeypatch.setenv("AIRFLOW__EDGE_MQTT__BRIDGE_URL", f"wss://127.0.0.1:{port}/mqtt")
        monkeypatch.setenv("AIRFLOW__EDGE_MQTT__EXECUTOR_CERTS", str(certs))

    return to


Configure = Callable[[Path, int], None]


def failure(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Run the check, which must fail; return its exit code and its one line."""
    with pytest.raises(SystemExit) as ended:
        check_command()
    (line,) = capsys.readouterr().err.splitlines()
    assert isinstance(ended.value.code, int)
    return ended.value.code, line


def test_the_check_says_who_we_are_and_that_the_bridge_answers(
    bridge: BridgeOverWss, store: Store, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(store.folder(ME), bridge.port)
    check_command()
    certificate, answer = capsys.readouterr().out.splitlines()
    assert certificate.startswith("certificate  executor:exec-1, valid until 20")
    assert answer == f"bridge       wss://127.0.0.1:{bridge.port}/mqtt answers and accepts executor:exec-1"


def test_the_check_fails_when_the_bridge_has_other_topics(
    bridge: BridgeOverWss,
    store: Store,
    configure: Configure,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure(store.folder(ME), bridge.port)
    monkeypatch.setenv("AIRFLOW__EDGE_MQTT__TOPIC_PREFIX", "plant7")
    code, line = failure(capsys)
    assert code == 1
    assert "does not let executor:exec-1 subscribe to plant7/v1/events/exec-1" in line
    assert "same topic_prefix" in line


def test_the_check_beside_a_scheduler_finds_its_name_taken_and_disturbs_nobody(
    bridge: BridgeOverWss, link: BridgeClient, store: Store, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    bridge.expect(ExecutorHello)
    configure(store.folder(ME), bridge.port)
    check_command()
    assert "answers; executor:exec-1 is connected already" in capsys.readouterr().out
    assert (link.status().connected, link.status().connections) == (True, 1)


def test_the_check_warns_about_a_certificate_that_ends_soon(
    bridge: BridgeOverWss, store: Store, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(store.folder(Identity(Role.EXECUTOR, "ending")), bridge.port)
    check_command()
    assert "warning      " in capsys.readouterr().out


def test_the_check_fails_when_nobody_listens(
    store: Store, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    configure(store.folder(ME), port)
    code, line = failure(capsys)
    assert code == 1
    assert line.startswith(f"wss://127.0.0.1:{port}/mqtt is not reached: ")


def test_the_check_fails_with_a_certificate_of_another_authority(
    bridge: BridgeOverWss, tmp_path: Path, configure: Configure, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Store(tmp_path / "other")
    now = datetime.now(UTC)
    other.create(hosts=["127.0.0.1"], force=False, now=now)
    other.issue(ME, force=False, now=now)
    configure(other.folder(ME), bridge.port)
    code, line = failure(capsys)
    assert code == 1
    assert "certificate is refused" in line


@pytest.mark.parametrize("identity", [Identity(Role.WORKER, "lab-3"), Identity(Role.EXECUTOR, "nobody")])
def test_the_check_fails_before_connecting_when_the_certificate_will_not_do(
    store: Store, configure: Configure, capsys: pytest.CaptureFixture[str], identity: Identity
) -> None:
    configure(store.folder(identity), 1)
    code, line = failure(capsys)
    assert code == 2
    assert str(store.folder(identity)) in line


def test_the_check_names_a_missing_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AIRFLOW__EDGE_MQTT__BRIDGE_URL", raising=False)
    code, line = failure(capsys)
    assert (code, line.startswith("[edge_mqtt] bridge_url is not set")) == (2, True)
