"""A reader, a bridge that answers it and the paper it prints on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from edge_mqtt.broker_bridge.edge_logs.tail_client import Ending, TailClient
from edge_mqtt.broker_bridge.transport.interface import Refusal, RefusalReason
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from tests.support.fake_tail_bridge import Paper, TwinBridge
from tests.support.scenario_tail_client import Start, make_reader


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bridge(broker: MemoryBroker) -> TwinBridge:
    return TwinBridge(broker)


@pytest.fixture
def paper() -> Paper:
    return Paper()


@pytest.fixture
def start(broker: MemoryBroker, bridge: TwinBridge, paper: Paper) -> Iterator[Start]:  # noqa: ARG001  the bridge has to be there first
    """Start a reader in a thread; what it has not ended by itself is ended by a refusal."""
    running: list[tuple[TailClient, Future[Ending]]] = []
    with ThreadPoolExecutor(4) as threads:

        def begin(*, follow: bool, last_lines: int | None = None) -> Future[Ending]:
            reader = make_reader(broker, paper, follow=follow, last_lines=last_lines)
            future = threads.submit(reader.run)
            running.append((reader, future))
            return future

        yield begin
        for reader, _ in running:
            reader.refused(Refusal(reason=RefusalReason.NOT_AUTHORIZED, message="the test is over"))
