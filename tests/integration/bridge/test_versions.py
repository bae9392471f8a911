"""An executor that is older than its bridge: nothing of it is accepted, from its first word on, and both say why."""

from __future__ import annotations

import sqlite3
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.broker_bridge.transport.paho import ConnectOptions, PahoTransport
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.tls import client_context
from edge_mqtt.executor.bridge_client import BridgeClient, BridgeClientTiming, PreparedConnection
from tests.support.bridge_program import Site, free_port, wait_until_healthy
from tests.support.fixed_context import FixedContext

ANN = Identity(Role.EXECUTOR, "ann")
TOPICS = Topics()
#: The bridge's program, in the next version of the protocol.
LATER = """
import sys
from edge_mqtt.broker_bridge.protocol import codec, messages
from edge_mqtt.broker_bridge.transport import channel
codec.PROTOCOL_VERSION = channel.PROTOCOL_VERSION = 2
for model in messages.MESSAGE_OF_KIND.values():
    model.model_fields["v"].default = 2
    model.model_rebuild(force=True)
from edge_mqtt.broker_bridge.__main__ import main
sys.argv[0] = "edge-bridge"
sys.exit(main())
"""


def wait_until(condition: Callable[[], bool]) -> None:
    """For what shows only in the client's status: looks often, with a limit."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def test_nothing_of_an_older_executor_is_accepted_not_even_in_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, port, health_port = Site(tmp_path), free_port(), free_port()
    later = tmp_path / "later-bridge"
    later.write_text(f"#!{sys.executable}\n{LATER}")
    later.chmod(0o755)
    monkeypatch.setattr("tests.support.bridge_program.COMMAND", str(later))
    bridge = site.start(port=port, health_port=health_port)
    wait_until_healthy(health_port)
    site.certificates.issue(ANN, force=False, now=datetime.now(UTC))
    context = client_context(load_credentials(site.certificates.folder(ANN)))

    def prepare() -> PreparedConnection:
        options = ConnectOptions(
            identity=ANN,
            incarnation=uuid.uuid4().hex,
            keep_alive_s=60,
            subscriptions=(TOPICS.events(ExecutorName(ANN.name)), TOPICS.admin_response(ANN)),
        )
        return PreparedConnection(
            identity=ANN, transport=PahoTransport(f"wss://127.0.0.1:{port}/mqtt", FixedContext(context), options)
        )

    executor = BridgeClient(prepare, topics=TOPICS, timing=BridgeClientTiming(resend_s=0.1, reconnect_s=3600))
    executor.submit(JobSpec(job_id=JobId("j"), type=WorkloadType.TASK, queue="q"), "t")
    executor.start()
    wait_until(lambda: "upgrade this program" in executor.status().problem)
    says = "the bridge speaks protocol version 2, this program speaks 1: upgrade this program"
    assert executor.status().problem == says
    assert executor.status().unanswered == 1, "the job waits for the upgraded executor"
    executor.stop()
    bridge.terminate()
    _, log = bridge.communicate(timeout=60)
    assert "the sender speaks protocol version 1, the bridge speaks 2: upgrade the sender" in log
    assert "job accepted" not in log
    (ledger,) = tmp_path.rglob("*.db")
    with closing(sqlite3.connect(ledger)) as rows:
        assert rows.execute("SELECT count(*) FROM jobs").fetchone() == (0,)
