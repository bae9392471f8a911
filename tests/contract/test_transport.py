"""What every transport keeps to, over memory and over the embedded broker with real TLS and WebSockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.codec import Decoder
from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.protocol.messages import Presence, WorkerState
from edge_mqtt.broker_bridge.transport.interface import Transport
from tests.support.scenario_transport import (
    SUBSCRIPTIONS,
    TOPICS,
    WORKER_NAME,
    MemoryWorld,
    Recorder,
    World,
    WssWorld,
)

PRESENCE = TOPICS.presence(WORKER_NAME)
RESULTS = TOPICS.results(WORKER_NAME)
CONTROL = TOPICS.control(WORKER_NAME)


@pytest.fixture(params=[MemoryWorld, WssWorld], ids=["memory", "wss"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    made: World = request.param(tmp_path / "certs")
    yield made
    made.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def start(stack: ExitStack, transport: Transport) -> Recorder:
    recorder = Recorder()
    transport.start(recorder)
    stack.callback(transport.stop)
    recorder.wait_event("connected")
    return recorder


def test_nothing_is_sent_before_start_and_after_stop(world: World, stack: ExitStack) -> None:
    for transport in (world.worker(), world.centre()):
        assert not transport.publish(RESULTS, b"early", qos=1)
        start(stack, transport)
        assert transport.connection == 1
        transport.stop()
        assert not transport.publish(RESULTS, b"late", qos=1)


def test_packets_arrive_whole_in_order_and_only_where_subscribed(world: World, stack: ExitStack) -> None:
    centre, worker = world.centre(), world.worker()
    heard_by_centre, heard_by_worker = start(stack, centre), start(stack, worker)
    payloads = [bytes([i % 256]) * (i * 997 % 120_000) for i in range(100)]
    for i, payload in enumerate(payloads):
        assert worker.publish(RESULTS, payload, qos=i % 2)
        assert centre.publish(TOPICS.assignment("gpu/fast", WORKER_NAME), payload, qos=i % 2)
        assert centre.publish(TOPICS.control(WorkerName("another")), payload, qos=1)
    assert heard_by_centre.wait_packets(100) == [(RESULTS, payload) for payload in payloads]
    topic = TOPICS.assignment("gpu/fast", WORKER_NAME)
    assert heard_by_worker.wait_packets(100) == [(topic, payload) for payload in payloads]


def test_a_retained_message_reaches_whoever_subscribes_later(world: World, stack: ExitStack) -> None:
    worker = world.worker()
    heard_by_first = start(stack, world.centre())
    start(stack, worker)
    assert worker.publish(PRESENCE, b"first", qos=1, retain=True)
    assert worker.publish(PRESENCE, b"second", qos=1, retain=True)
    heard_by_first.wait_packets(2)
    late = start(stack, world.centre())
    assert late.wait_packets(1) == [(PRESENCE, b"second")]


def test_a_goodbye_sends_what_is_queued_and_no_will(world: World, stack: ExitStack) -> None:
    worker = world.worker()
    heard = start(stack, world.centre())
    start(stack, worker)
    for i in range(50):
        assert worker.publish(RESULTS, b"%d" % i, qos=1)
    assert worker.publish(PRESENCE, b"gone", qos=1, retain=True)
    worker.stop()
    heard.wait_packets(51)
    again = world.worker()
    start(stack, again)
    assert again.publish(RESULTS, b"after", qos=1)
    assert heard.wait_packets(52)[50:] == [(PRESENCE, b"gone"), (RESULTS, b"after")]


def test_a_cut_connection_publishes_its_will_and_comes_back(world: World, stack: ExitStack) -> None:
    worker = world.worker()
    heard = start(stack, world.centre())
    recorder = start(stack, worker)
    world.cut()
    recorder.wait_event("disconnected")
    topic, payload = heard.wait_packets(1)[0]
    presence = Decoder().feed(topic, payload)
    assert isinstance(presence, Presence)
    assert (topic, presence.state, presence.connection) == (PRESENCE, WorkerState.OFFLINE, 1)
    world.restore()
    recorder.wait_event("connected", 2)
    assert worker.connection == 2
    assert recorder.events == ["connected", "disconnected", "connected"]
    assert worker.publish(RESULTS, b"back", qos=1)
    assert heard.wait_packets(2)[1] == (RESULTS, b"back")


def test_what_a_listener_publishes_when_it_is_told_arrives(world: World, stack: ExitStack) -> None:
    worker = world.worker()
    heard = start(stack, world.centre())

    class Eager(Recorder):
        def connected(self) -> None:
            super().connected()
            assert worker.publish(PRESENCE, b"here", qos=1, retain=True)

        def received(self, topic: str, payload: bytes) -> None:
            super().received(topic, payload)
            assert worker.publish(RESULTS, payload, qos=1)

    worker.start(Eager())
    stack.callback(worker.stop)
    heard.wait_packets(1)
    centre = world.centre()
    start(stack, centre)
    assert centre.publish(CONTROL, b"ping", qos=0)
    assert heard.wait_packets(2) == [(PRESENCE, b"here"), (RESULTS, b"ping")]


def test_publishing_from_many_threads_loses_nothing(world: World, stack: ExitStack) -> None:
    worker = world.worker()
    heard = start(stack, world.centre())
    start(stack, worker)

    def publish(thread: int) -> None:
        for i in range(100):
            assert worker.publish(RESULTS, b"%d/%d" % (thread, i), qos=1)

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    packets = heard.wait_packets(600)
    for thread_number in range(6):
        mine = [payload for _, payload in packets if payload.startswith(b"%d/" % thread_number)]
        assert mine == [b"%d/%d" % (thread_number, i) for i in range(100)]


def test_the_filters_of_the_worker_are_those_it_may_have() -> None:
    assert SUBSCRIPTIONS == ("edge/v1/jobs/+/to/lab-3", "edge/v1/control/lab-3")
