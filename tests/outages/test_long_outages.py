"""Outages as long as tokens, heartbeats and leases allow, and longer: what takes hours elsewhere, in a minute."""

from __future__ import annotations

import configparser
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.quickstart.errors import RestFailed
from deploy.quickstart.homes import merged
from deploy.quickstart.ports import Ports
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.e2e.checks import assert_logs_equal
from tests.e2e.conftest import QUICK, running_stack
from tests.e2e.link import BadLink
from tests.outages.held_tasks import DAG, DAGS, QUEUE, HeldTask, Watch

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

#: Seconds that a token lives, and after which Airflow gives up a task without heartbeats.
TOKEN_S = 20
HEARTBEAT_TIMEOUT_S = 12
#: Seconds between MQTT pings.
KEEP_ALIVE_S = 6
KILL_GRACE_S = 3
LONG_GRACE_S = 120
SHORT_GRACE_S = 20
FAR, NEAR = "edge-1", "edge-2"
CONFIG = merged(
    QUICK,
    {
        "execution_api": {"jwt_expiration_time": str(TOKEN_S)},
        "scheduler": {
            "task_instance_heartbeat_timeout": str(HEARTBEAT_TIMEOUT_S),
            "task_instance_heartbeat_timeout_detection_interval": "2",
        },
        "edge_mqtt": {
            "offline_grace": str(LONG_GRACE_S),
            "kill_grace": str(KILL_GRACE_S),
            "presence_interval": "3",
            "heartbeat_interval": "2",
        },
    },
)


@pytest.fixture(scope="module")
def far_ports() -> Ports:
    """The ports of this module's stack."""
    return Ports.free()


@pytest.fixture(scope="module")
def far_link(far_ports: Ports) -> Iterator[BadLink]:
    """The link between the far worker and the bridge; leave it good."""
    with BadLink(far_ports.bridge) as link:
        yield link


@pytest.fixture(scope="module")
def far_stack(far_ports: Ports, far_link: BadLink) -> Iterator[Stack]:
    """A stack with a worker on a bad link, which gets a task first, and one on a good link."""
    workers = [
        WorkerSpec(name=FAR, queues=(QUEUE,), concurrency=8, via=far_link.port),
        WorkerSpec(name=NEAR, queues=(QUEUE,), concurrency=2),
    ]
    environment = {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": str(KEEP_ALIVE_S)}
    with running_stack(dags=DAGS, config=CONFIG, workers=workers, ports=far_ports, environment=environment) as stack:
        stack.wait_for_dag(DAG)
        yield stack


def set_offline_grace(stack: Stack, seconds: int) -> None:
    """Restart the bridge with another ``offline_grace`` and wait until every worker has heard of it."""
    path = stack.central_home / "airflow.cfg"
    config = configparser.ConfigParser(interpolation=None)
    config.read(path)
    config["edge_mqtt"]["offline_grace"] = str(seconds)
    with path.open("w") as file:
        config.write(file)
    watches = [Watch(stack, f"worker-{name}") for name in (FAR, NEAR)]
    stack.restart("bridge")
    for watch in watches:
        watch.await_line("connected to wss:")


def test_task_survives_an_outage_of_three_token_lives_and_five_heartbeat_timeouts(
    far_stack: Stack, far_link: BadLink, tmp_path: Path
) -> None:
    held = HeldTask(far_stack, tmp_path)
    far_link.cut()
    held.push()
    time.sleep(max(3 * TOKEN_S, 5 * HEARTBEAT_TIMEOUT_S) + 2)
    assert held.trace("pushed") == []
    assert held.instance()["state"] == "running"
    far_link.restore()
    # A minute at most passes between two attempts to connect.
    held.await_trace("pushed", timeout_s=90)
    held.await_beats(2)
    held.assert_undisturbed()
    assert far_stack.rest("GET", f"{held.path}/taskInstances/hold/xcomEntries/word")["value"] == "of try 1"
    assert_logs_equal(far_stack, DAG, held.run_id)
    far_stack.check_alive()


def test_silent_link_is_noticed_on_both_sides(far_stack: Stack, far_link: BadLink, tmp_path: Path) -> None:
    held = HeldTask(far_stack, tmp_path)
    worker, bridge = Watch(far_stack, f"worker-{FAR}"), Watch(far_stack, "bridge")
    far_link.blackhole()
    # Half a second: what was on its way when the silence began counts from its arrival.
    limit_s = 1.5 * KEEP_ALIVE_S + 0.5
    assert bridge.await_line(f"worker:{FAR} dropped: silent") < limit_s + 1
    assert worker.await_line("connection lost") < limit_s + KEEP_ALIVE_S / 12 + 1
    far_link.restore()
    worker.await_line("connected to wss:")
    held.await_beats(2)
    held.assert_undisturbed()
    assert_logs_equal(far_stack, DAG, held.run_id)


def test_outage_longer_than_the_grace_ends_the_task_on_the_edge_before_another_try_begins(
    far_stack: Stack, far_link: BadLink, tmp_path: Path
) -> None:
    set_offline_grace(far_stack, SHORT_GRACE_S)
    held = HeldTask(far_stack, tmp_path)
    bridge = Watch(far_stack, "bridge")
    far_link.cut()
    held.push()
    held.await_gone(timeout_s=3 * SHORT_GRACE_S)
    assert "out of reach for longer than offline_grace" in held.edge_log(FAR).read_text()
    assert bridge.lines("no contact with worker edge-1") == []
    bridge.await_line("no contact with worker edge-1", timeout_s=3 * SHORT_GRACE_S)
    # The link is still down: the second try runs on the other worker.
    assert far_stack.wait_run(DAG, held.run_id) == "success"
    assert (held.instance()["state"], held.instance()["try_number"]) == ("success", 2)
    assert held.edge_log(NEAR, 2).exists()
    held.assert_tries_did_not_overlap()
    bridge = Watch(far_stack, "bridge")
    far_link.restore()
    bridge.await_line(f"worker:{FAR} connected", timeout_s=90)
    assert assert_logs_equal(far_stack, DAG, held.run_id) == 2
    assert "out of reach for longer than offline_grace" in held.central_log()
    # The first try's XCom was on its way when the link went: it must not arrive in the second's name.
    with pytest.raises(RestFailed, match="404"):
        far_stack.rest("GET", f"{held.path}/taskInstances/hold/xcomEntries/word")
    assert (held.instance()["state"], held.instance()["try_number"]) == ("success", 2)
    assert far_stack.run_state(DAG, held.run_id) == "success"
    far_stack.check_alive()
