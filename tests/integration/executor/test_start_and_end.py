"""The executor's start with right and wrong settings, its end, and what it shows of itself."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest
from airflow.exceptions import AirflowConfigException

from edge_mqtt.broker_bridge.protocol.messages import Submit
from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.executor import EdgeMqttExecutor
from tests.support.fake_bridge import PATIENCE_S, TwinBridge
from tests.support.scenario_executor import MakeScheduler, TwinExecutor, make_run

pytestmark = pytest.mark.usefixtures("database")


def test_a_shutdown_waits_until_the_bridge_has_what_was_submitted(
    bridge: TwinBridge, make_scheduler: MakeScheduler
) -> None:
    make_run({"task_id": "t"})
    scheduler = make_scheduler()
    scheduler.loop()
    scheduler.executor.end()
    assert bridge.expect(Submit).job.job_id in bridge.states


def test_a_shutdown_without_the_bridge_says_that_something_is_left(
    bridge: TwinBridge, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    make_run({"task_id": "t"})
    bridge.broker.stop()
    scheduler = make_scheduler()
    scheduler.loop()
    scheduler.executor.end()
    assert "shutting down before the bridge has everything" in caplog.text


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        (
            "BRIDGE_URL",
            "",
            "[edge_mqtt] bridge_url is not set: set it in airflow.cfg or as AIRFLOW__EDGE_MQTT",
        ),
        ("EXECUTOR_CERTS", "", "[edge_mqtt] executor_certs is not set"),
        ("KEEP_ALIVE", "soon", "[edge_mqtt] keep_alive is 'soon' (from AIRFLOW__EDGE_MQTT__KEEP_ALIVE): it must be"),
        ("TOPIC_PREFIX", "plant/7", "[edge_mqtt] topic_prefix is 'plant/7'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, line: str
) -> None:
    monkeypatch.setenv(f"AIRFLOW__EDGE_MQTT__{variable}", value)
    with pytest.raises(AirflowConfigException) as raised:
        EdgeMqttExecutor().start()
    assert str(raised.value).startswith(line)
    assert "\n" not in str(raised.value)


def test_a_missing_certificate_delays_jobs_and_is_said_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    executor = EdgeMqttExecutor()
    said = logging.getLogger("edge_mqtt.executor.bridge_client")
    with caplog.at_level(logging.ERROR, logger=said.name):
        executor.start()
        deadline = time.monotonic() + PATIENCE_S
        while not caplog.messages:
            assert time.monotonic() < deadline
            time.sleep(0.002)
    executor.terminate()
    (message,) = caplog.messages
    assert message.startswith("no connection to the bridge:")
    assert str(tmp_path / "certs") in message


def test_an_executor_of_a_team_uses_its_team_s_settings(
    make_scheduler: MakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__TEAM_A___EDGE_MQTT__BRIDGE_URL", "wss://bridge-of-team-a.test/mqtt")
    monkeypatch.setenv("AIRFLOW__TEAM_A___EDGE_MQTT__EXECUTOR_CERTS", "/certs/team-a")
    scheduler = make_scheduler(team_name="team_a")
    assert scheduler.executor._settings is not None
    assert scheduler.executor._settings.bridge_url == "wss://bridge-of-team-a.test/mqtt"
    assert scheduler.executor._settings.certs == Path("/certs/team-a")


def test_an_executor_that_was_never_started_ends_quietly(broker: MemoryBroker) -> None:
    executor = TwinExecutor(broker)
    executor.sync()
    executor.end()
    executor.terminate()
    executor.debug_dump()
    with pytest.raises(RuntimeError, match="not started"):
        executor.try_adopt_task_instances([])


def test_the_debug_dump_shows_the_link(
    bridge: TwinBridge, make_scheduler: MakeScheduler, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = make_scheduler()
    bridge.wait_for_executor()
    with caplog.at_level(logging.INFO, logger="edge_mqtt.executor"):
        scheduler.executor.debug_dump()
    assert "connected=True" in caplog.text
