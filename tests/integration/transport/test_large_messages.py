"""Large messages on a slow link: whatever else there is goes before them, and they take turns."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

import pytest

from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse, Message, ResultAck, StartRequest
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.inprocess import InProcessTransport
from edge_mqtt.broker_bridge.transport.interface import Refusal
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import client_context
from tests.support.bad_link import BadLink
from tests.support.fixed_context import FixedContext
from tests.support.scenario_transport import TOPICS, WORKER, WORKER_NAME, BrokerThread

#: 1 Mbit/s, 100 ms there and back.
BYTES_PER_S = 125_000
DELAY_S = 0.05
#: Bytes that are not through before the small messages are: 32 s of the link.
LARGE = 4_000_000
SMALL = 20
#: Bytes that may pass from a small message's sending to its arrival, as a rule: what is on the way then, and what
#: follows it. The link carries 6 kB in DELAY_S; this is a moment's queue, not the large message.
MOMENT_BYTES = 64_000
PATIENCE_S = 60.0
UP, DOWN = TOPICS.rpc_request(WORKER_NAME), TOPICS.rpc_response(WORKER_NAME)
CONTROL = TOPICS.control(WORKER_NAME)


class Heard:
    """Remembers what came, and how many bytes the link had carried by then."""

    def __init__(self, passed: Callable[[], int]) -> None:
        self._passed = passed
        self.messages: list[tuple[int, Message]] = []
        self._changed = threading.Condition()
        self._up = threading.Event()

    def connected(self) -> None:
        self._up.set()

    def disconnected(self, reason: str) -> None:
        del reason

    def refused(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)

    def received(self, topic: str, message: Message) -> None:
        del topic
        with self._changed:
            self.messages.append((self._passed(), message))
            self._changed.notify_all()

    def wait_connected(self) -> None:
        assert self._up.wait(PATIENCE_S)

    def wait(self, kind: type[Message], count: int = 1) -> list[int]:
        """Wait for so many messages of a kind; return the bytes that had passed when each came."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.passed_at(kind)) >= count, PATIENCE_S)
            return self.passed_at(kind)

    def passed_at(self, kind: type[Message]) -> list[int]:
        return [passed for passed, message in self.messages if isinstance(message, kind)]


class Site:
    """A bridge's end and a worker's, with a slow link between them."""

    def __init__(self, directory: Path) -> None:
        self.thread = BrokerThread(directory)
        self.link = BadLink(self.thread.broker.port)
        options = ConnectOptions(identity=WORKER, incarnation="one", keep_alive_s=60, subscriptions=(DOWN, CONTROL))
        context = client_context(load_credentials(self.thread.store.folder(WORKER)))
        self.worker = MessageChannel(
            PahoTransport(f"wss://localhost:{self.link.port}/mqtt", FixedContext(context), options)
        )
        self.bridge = MessageChannel(InProcessTransport(self.thread.broker.router, TOPICS.for_bridge()))
        self.at_worker, self.at_bridge = Heard(lambda: self.link.bytes_down), Heard(lambda: self.link.bytes_up)
        self.bridge.start(self.at_bridge, serves_many=True)
        self.worker.start(self.at_worker)
        self.at_worker.wait_connected()
        self.link.delay_s, self.link.bytes_per_s = DELAY_S, BYTES_PER_S

    def send(self, *, up: bool, message: Message) -> None:
        channel, topic = (self.worker, UP) if up else (self.bridge, DOWN)
        assert channel.send(topic, message)

    def passed(self, *, up: bool) -> int:
        """Return the bytes that the link has carried."""
        return self.link.bytes_up if up else self.link.bytes_down

    def heard(self, *, up: bool) -> Heard:
        return self.at_bridge if up else self.at_worker

    def close(self) -> None:
        self.link.close()
        self.worker.stop()
        self.thread.close()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "certs")
    yield made
    made.close()


def large(name: str, size: int = LARGE, *, up: bool) -> ApiRequest | ApiResponse:
    """Return a call or an answer that nothing makes smaller."""
    if up:
        return ApiRequest(
            request_id=name,
            job_id=JobId(name),
            fence=Fence(1),
            method="POST",
            target="xcoms/x",
            body=os.urandom(size),
        )
    return ApiResponse(request_id=name, status=200, body=os.urandom(size))


def small(number: int, *, up: bool) -> StartRequest | ResultAck:
    job_id = JobId(f"s{number}")
    if up:
        return StartRequest(request_id=job_id, job_id=job_id, fence=Fence(1))
    return ResultAck(job_id=job_id, fence=Fence(1))


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_small_messages_are_not_held_up_by_a_large_one(site: Site, *, up: bool) -> None:
    heard = site.heard(up=up)
    site.send(up=up, message=large("big", up=up))
    kind = type(small(0, up=up))
    before = []
    for number in range(SMALL):
        passed = site.passed(up=up)
        channel, topic = (site.worker, UP) if up else (site.bridge, CONTROL)
        assert channel.send(topic, small(number, up=up))
        before.append(heard.wait(kind, number + 1)[number] - passed)
    assert not heard.passed_at(ApiRequest if up else ApiResponse)
    assert median(before) <= MOMENT_BYTES


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_call_of_a_moment_is_not_behind_one_of_minutes(site: Site, *, up: bool) -> None:
    heard, whole = site.heard(up=up), ApiRequest if up else ApiResponse
    site.send(up=up, message=large("minutes", 40_000_000, up=up))
    passed = site.passed(up=up)
    site.send(up=up, message=large("moment", 60_000, up=up))
    # Half of the link is its own.
    assert heard.wait(whole)[0] - passed <= 2 * 60_000 + MOMENT_BYTES
    assert [message.request_id for _, message in heard.messages if isinstance(message, whole)] == ["moment"]


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_what_is_sent_again_while_it_is_still_being_sent_travels_once(site: Site, *, up: bool) -> None:
    heard, whole = site.heard(up=up), ApiRequest if up else ApiResponse
    message = large("call", 250_000, up=up)
    site.send(up=up, message=message)
    for _ in range(10):
        site.send(up=up, message=message.model_copy(update={"repeated": True}) if up else message)
    site.send(up=up, message=large("next", 10_000, up=up))
    heard.wait(whole, 2)
    assert [message.request_id for _, message in heard.messages if isinstance(message, whole)] == ["next", "call"]
    assert site.passed(up=up) < 400_000
