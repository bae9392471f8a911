"""A worker learns how far its clock is off from what the bridge answers, says so, and tells the bridge."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.codec import Decoder
from edge_mqtt.broker_bridge.protocol.messages import Message, Presence, PresenceAck, Welcome, WorkerState
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from edge_mqtt.worker.bridge.clock_watch import ClockWatch, moment_now
from edge_mqtt.worker.bridge.presence import PresenceLoop
from edge_mqtt.worker.jobs.spool import Spool
from edge_mqtt.worker.jobs.store import JobStore
from edge_mqtt.worker.link import Link
from tests.support.scenario_worker_parts import ADDRESS

AHEAD_S = 120.0


def welcome(**fields: float) -> Welcome:
    return Welcome(
        incarnation=ADDRESS.incarnation, connection=1, kill_grace_s=1.0, presence_interval_s=20.0, **fields
    )


def acknowledgement(sequence: int, **fields: float) -> PresenceAck:
    return PresenceAck(incarnation=ADDRESS.incarnation, connection=1, sequence=sequence, **fields)


def presences(spool: Path, *answers: Message) -> list[Presence]:
    """Return what a worker says when its first presence is answered so."""
    heard: list[Presence] = []

    async def run() -> None:
        broker, decoder = MemoryBroker(), Decoder()

        def hear(topic: str, payload: bytes) -> None:
            message = decoder.feed(topic, payload)
            assert isinstance(message, Presence)
            heard.append(message)

        broker.subscribe([ADDRESS.topics.presence(ADDRESS.name)], hear)
        link = Link(MessageChannel(MemoryTransport(broker, "worker:w", ADDRESS.subscriptions)), ADDRESS)
        jobs = JobStore(Spool.open(spool))
        presence = PresenceLoop(
            link,
            jobs,
            version="0",
            queues=("q",),
            concurrency=1,
            state=lambda: WorkerState.ONLINE,
            record_contact=lambda _: None,
            clock=ClockWatch(),
        )
        link.start()
        presence.introduce_worker()
        for answer in answers:
            if isinstance(answer, Welcome):
                link.ready = True
                presence.record_welcome(answer)
            else:
                assert isinstance(answer, PresenceAck)
                presence.record_ack(answer)
        link.stop()
        jobs.close()

    asyncio.run(run())
    return heard


@pytest.mark.parametrize("order", ["welcome first", "confirmation first", "confirmation only later"])
def test_bridge_is_told_at_once_when_the_clock_is_wrong(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, order: str
) -> None:
    centre = time.time() - AHEAD_S
    answers = {
        "welcome first": (welcome(sent_at=centre), acknowledgement(0, sent_at=centre)),
        "confirmation first": (acknowledgement(0, sent_at=centre), welcome(sent_at=centre)),
        "confirmation only later": (welcome(), acknowledgement(0, sent_at=centre)),
    }
    first, second = presences(tmp_path / "spool.db", *answers[order])
    assert (first.sequence, first.clock_offset_s) == (0, 0.0)
    assert second.sequence == 1
    assert second.clock_offset_s == pytest.approx(-AHEAD_S, abs=1.0)
    assert [r.getMessage().partition(":")[0] for r in caplog.records if r.levelno == logging.WARNING] == [
        "this machine's clock is 120 s ahead of the bridge's"
    ]


def test_clock_that_is_right_is_not_spoken_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    centre = time.time()
    heard = presences(tmp_path / "spool.db", welcome(sent_at=centre), acknowledgement(0, sent_at=centre))
    assert [presence.clock_offset_s for presence in heard] == [0.0]
    assert not caplog.records


def test_bridge_that_tells_no_time_is_no_news(tmp_path: Path) -> None:
    assert len(presences(tmp_path / "spool.db", welcome(), acknowledgement(0))) == 1


def test_clock_that_is_set_right_is_said_to_be(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge_mqtt.worker")
    watch, now = ClockWatch(), moment_now()
    assert watch.record_answer(now.boot, now.wall + 60.0)
    # The centre's clock was the wrong one.
    assert watch.record_answer(now.boot, now.wall)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "this machine's clock is 60 s behind the bridge's",
        "this machine's clock is right again",
    ]
