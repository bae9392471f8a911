"""Large messages on a slow link: whatever else there is goes before them, and they take turns."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
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
#: What a small message may take at most; without anything beside it, it takes DELAY_S.
PROMPT_S = DELAY_S + 0.25
#: Bytes that are not through before the small messages are: 8 s of the link.
LARGE = 1_000_000
SMALL = 40
PATIENCE_S = 60.0
UP, DOWN = TOPICS.rpc_request(WORKER_NAME), TOPICS.rpc_response(WORKER_NAME)
CONTROL = TOPICS.control(WORKER_NAME)


class Heard:
    """Remembers what came, and when."""

    def __init__(self) -> None:
        self.messages: list[tuple[float, Message]] = []
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
            self.messages.append((time.monotonic(), message))
            self._changed.notify_all()

    def wait_connected(self) -> None:
        assert self._up.wait(PATIENCE_S)

    def wait(self, kind: type[Message], count: int = 1) -> list[float]:
        """Wait for so many messages of a kind; return when they came."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.times(kind)) >= count, PATIENCE_S)
            return self.times(kind)

    def times(self, kind: type[Message]) -> list[float]:
        return [at for at, message in self.messages if isinstance(message, kind)]


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
        self.at_worker, self.at_bridge = Heard(), Heard()
        self.bridge.start(self.at_bridge, serves_many=True)
        self.worker.start(self.at_worker)
        self.at_worker.wait_connected()
        self.link.delay_s, self.link.bytes_per_s = DELAY_S, BYTES_PER_S

    def send(self, *, up: bool, message: Message) -> None:
        channel, topic = (self.worker, UP) if up else (self.bridge, DOWN)
        assert channel.send(topic, message)

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
    waits = []
    for number in range(SMALL):
        sent_at = time.monotonic()
        channel, topic = (site.worker, UP) if up else (site.bridge, CONTROL)
        assert channel.send(topic, small(number, up=up))
        waits.append(heard.wait(kind, number + 1)[number] - sent_at)
    whole = ApiRequest if up else ApiResponse
    assert not heard.times(whole), "the large one was through too soon for this to say anything"
    began = time.monotonic()
    heard.wait(whole)
    print(f"median {median(waits):.3f} s, most {max(waits):.3f} s, rest {time.monotonic() - began:.1f} s")
    assert median(waits) <= PROMPT_S / 2
    assert sorted(waits)[int(0.9 * SMALL)] <= PROMPT_S


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_a_call_of_a_moment_is_not_behind_one_of_minutes(site: Site, *, up: bool) -> None:
    heard, whole = site.heard(up=up), ApiRequest if up else ApiResponse
    site.send(up=up, message=large("minutes", 40 * LARGE, up=up))
    began = time.monotonic()
    site.send(up=up, message=large("moment", 60_000, up=up))
    took_s = heard.wait(whole)[0] - began
    # Half of the link is its own.
    assert took_s <= 3 * 60_000 / BYTES_PER_S


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
    passed = site.link.bytes_up if up else site.link.bytes_down
    assert passed < 400_000


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_the_link_is_used(site: Site, *, up: bool) -> None:
    began = time.monotonic()
    site.send(up=up, message=large("big", up=up))
    site.heard(up=up).wait(ApiRequest if up else ApiResponse)
    assert LARGE / (time.monotonic() - began) >= 0.75 * BYTES_PER_S
