"""Whatever a bridge tells an executor: it is understood or refused, and the executor goes on."""

from __future__ import annotations

import json
import logging
import random

import pytest

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import CancelJob
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.executor.bridge_client import BridgeClient
from tests.fuzz.odd_messages import Document, mutated
from tests.support.fake_bridge import ME, TOPICS, TwinBridge, line_to

MESSAGES = 3_000


def told(chance: random.Random) -> Document:
    """Return one of the messages that a bridge sends to executors."""
    job: Document = {"job_id": f"j{chance.randrange(9)}"}
    return chance.choice(
        [
            {"kind": "job_accepted", **job},
            {"kind": "job_started", **job, "worker": "w"},
            {"kind": "job_finished", **job, "outcome": "failed", "detail": "d", "type": "ExecuteTask"},
            {"kind": "cancel_ack", **job},
            {"kind": "adopt_reply", "request_id": "a", "states": {job["job_id"]: "running"}},
            {"kind": "error", "error": "what?"},
            {"kind": "log_ack", **job, "fence": 1, "offset": 3},
        ]
    )


@pytest.mark.parametrize("seed", range(3))
def test_an_executor_goes_on_whatever_the_bridge_tells_it(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    chance, bridge = random.Random(seed), TwinBridge(MemoryBroker())
    client = BridgeClient(lambda: line_to(bridge.broker), topics=TOPICS)
    events = TOPICS.events(ExecutorName(ME.name))
    client.start()
    try:
        bridge.wait_for_executor()
        for _ in range(MESSAGES):
            # Another version is another test: it ends the connection.
            odd = {**mutated(told(chance), chance), "v": 1}
            line = json.dumps(odd, ensure_ascii=chance.random() < 0.8).encode(errors="surrogatepass")
            bridge.broker.publish(events, line, qos=1, retain=False)
            client.read_news()
        assert caplog.messages == []
        bridge.hear_everything()
        client.cancel(JobId("mine"))
        assert bridge.expect(CancelJob).job_id == "mine"
    finally:
        client.stop()
