"""A client of the bridge over memory, and a bridge that answers what a test tells it to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.executor.bridge_client import BridgeClient, BridgeClientTiming, PreparedConnection
from tests.support.fake_bridge import TOPICS, TwinBridge, line_to
from tests.support.scenario_bridge_client import NEVER, MakeLink


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bridge(broker: MemoryBroker) -> TwinBridge:
    return TwinBridge(broker)


@pytest.fixture
def make_link(broker: MemoryBroker) -> Iterator[MakeLink]:
    links = []

    def make(
        timing: BridgeClientTiming = NEVER, dial: Callable[[], PreparedConnection] | None = None
    ) -> BridgeClient:
        link = BridgeClient(dial or (lambda: line_to(broker)), topics=TOPICS, timing=timing)
        links.append(link)
        link.start()
        return link

    yield make
    for link in links:
        link.stop()
