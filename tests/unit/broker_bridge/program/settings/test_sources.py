"""Command line, environment, airflow.cfg, default: in this order, and each named when its value is wrong."""

from __future__ import annotations

from configparser import InterpolationMissingOptionError
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.settings import schema
from edge_mqtt.broker_bridge.program.settings.setting import Reader, SettingError
from edge_mqtt.broker_bridge.program.settings.sources import (
    AirflowConfiguration,
    AirflowFile,
    CommandLine,
    Environment,
    Snapshot,
    Values,
)
from tests.support.fake_airflow_conf import FakeAirflowConf

HOME = {"AIRFLOW_HOME": "/opt/airflow"}


def error_of(source: AirflowConfiguration | AirflowFile | Environment) -> str:
    """Return what is said of the keep alive in ``source``."""
    with pytest.raises(SettingError) as refusal:
        Values(Reader.WORKER, source)[schema.KEEP_ALIVE]
    return str(refusal.value)


def test_the_first_source_that_has_a_value_counts() -> None:
    conf = AirflowConfiguration(FakeAirflowConf(worker_queues="file", worker_concurrency="3"), environ=HOME)
    values = Values(Reader.WORKER, CommandLine(Reader.WORKER, {"worker_queues": "option"}), conf)
    assert (values[schema.WORKER_QUEUES], values[schema.WORKER_CONCURRENCY]) == (("option",), 3)
    assert values[schema.KEEP_ALIVE] == 25


def test_an_empty_value_is_none() -> None:
    conf = AirflowConfiguration(FakeAirflowConf(keep_alive="", worker_certs=""), environ=HOME)
    values = Values(Reader.WORKER, Environment({"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": ""}), conf)
    assert values[schema.KEEP_ALIVE] == 25
    with pytest.raises(SettingError, match="worker_certs is not set: give --certs"):
        values[schema.WORKER_CERTS]


def test_airflow_s_home_is_filled_in_wherever_it_stands() -> None:
    conf = AirflowConfiguration(FakeAirflowConf(worker_certs="{AIRFLOW_HOME}/certs"), environ=HOME)
    values = Values(Reader.WORKER, conf, environ=HOME)
    assert values[schema.WORKER_CERTS] == Path("/opt/airflow/certs")
    assert values[schema.WORKER_STATE_DIR] == Path("/opt/airflow/edge-mqtt/worker")


def test_a_wrong_option_shows_before_anything_is_loaded() -> None:
    with pytest.raises(SettingError, match=r"^--concurrency is '0': it must be a whole number from 1 to 1000000$"):
        CommandLine(Reader.WORKER, {"worker_concurrency": "0"})


def test_a_program_s_options_are_its_own() -> None:
    assert CommandLine(Reader.WORKER, {"keep_alive": "5"}).find(schema.KEEP_ALIVE) is None


@pytest.mark.parametrize(
    ("environ", "team", "where"),
    [
        (HOME, None, "/opt/airflow/airflow.cfg"),
        ({"AIRFLOW_CONFIG": "/etc/airflow.cfg"}, None, "/etc/airflow.cfg"),
        ({"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": "x"}, None, "AIRFLOW__EDGE_MQTT__KEEP_ALIVE"),
        ({"AIRFLOW__EDGE_MQTT__KEEP_ALIVE_CMD": "x"}, None, "AIRFLOW__EDGE_MQTT__KEEP_ALIVE_CMD"),
        ({"AIRFLOW__EDGE_MQTT__KEEP_ALIVE_SECRET": "x"}, None, "AIRFLOW__EDGE_MQTT__KEEP_ALIVE_SECRET"),
        ({"AIRFLOW__PRESS___EDGE_MQTT__KEEP_ALIVE": "x"}, "press", "AIRFLOW__PRESS___EDGE_MQTT__KEEP_ALIVE"),
    ],
)
def test_airflow_s_configuration_is_named_with_the_place(environ: dict[str, str], team: str, where: str) -> None:
    conf = AirflowConfiguration(FakeAirflowConf(keep_alive="x"), environ=environ, team=team)
    assert error_of(conf) == (
        f"[edge_mqtt] keep_alive is 'x' (from {where}): it must be a whole number of seconds from 1 to 65535"
    )


def test_a_value_that_airflow_cannot_read_is_one_line() -> None:
    class Broken:
        def get(self, section: str, key: str, *, fallback: str | None) -> str | None:
            raise InterpolationMissingOptionError(key, section, "%(nowhere)s", "nowhere")

    assert error_of(AirflowConfiguration(Broken(), environ=HOME)).startswith(
        "[edge_mqtt] keep_alive cannot be read (from /opt/airflow/airflow.cfg): Bad value substitution: "
    )


def test_without_airflow_our_own_variable_comes_first_and_all_is_expanded() -> None:
    airflow_s, ours = {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": "7"}, {"EDGE_MQTT_KEEP_ALIVE": "8"}
    assert Values(Reader.WORKER, Environment(airflow_s, own=True))[schema.KEEP_ALIVE] == 7
    assert Values(Reader.WORKER, Environment(airflow_s | ours, own=True))[schema.KEEP_ALIVE] == 8
    assert Values(Reader.WORKER, Environment(airflow_s | ours))[schema.KEEP_ALIVE] == 7
    home = Values(Reader.WORKER, Environment({"AIRFLOW__EDGE_MQTT__WORKER_CERTS": "$HOME/certs"}))
    assert home[schema.WORKER_CERTS] == Path("~/certs").expanduser()
    assert "(from EDGE_MQTT_KEEP_ALIVE)" in error_of(Environment({"EDGE_MQTT_KEEP_ALIVE": "x"}, own=True))


def test_without_airflow_its_file_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "airflow.cfg").write_text("[edge_mqtt]\nkeep_alive = x\n")
    file = AirflowFile(Reader.WORKER, {"AIRFLOW_HOME": str(tmp_path)})
    assert f"(from {tmp_path}/airflow.cfg)" in error_of(file)


def test_a_snapshot_says_what_its_source_said() -> None:
    conf = AirflowConfiguration(FakeAirflowConf(keep_alive="5", bridge_url="wss://b"), environ=HOME)
    snapshot = Snapshot.of(conf, [schema.KEEP_ALIVE, schema.WORKER_CERTS])
    assert snapshot.find(schema.KEEP_ALIVE) == conf.find(schema.KEEP_ALIVE)
    assert snapshot.find(schema.WORKER_CERTS) is None
    assert snapshot.find(schema.BRIDGE_URL) is None
