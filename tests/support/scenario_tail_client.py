"""A reader of edge-logs over a broker in memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from edge_mqtt.broker_bridge.edge_logs.line_assembler import LineAssembler
from edge_mqtt.broker_bridge.edge_logs.tail_client import Ending, TailClient
from edge_mqtt.broker_bridge.protocol.messages import LogSelector
from edge_mqtt.broker_bridge.transport.channel import MessageChannel
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker, MemoryTransport
from tests.support.fake_tail_bridge import ME, TOPICS, Paper

URL = "wss://bridge.example:443/mqtt"
#: Starts a reader in a thread.
Start = Callable[..., Future[Ending]]


def make_reader(broker: MemoryBroker, paper: Paper, *, follow: bool, last_lines: int | None = None) -> TailClient:
    """Return a reader that is not connected yet."""
    transport = MemoryTransport(broker, ME.client_id, (TOPICS.admin_response(ME),))
    return TailClient(
        MessageChannel(transport),
        url=URL,
        request_topic=TOPICS.admin_request(ME),
        tail=LineAssembler(LogSelector(dag_id="d"), last_lines=last_lines, wait_s=20.0 if follow else 0.0),
        output=paper,
        follow=follow,
    )
