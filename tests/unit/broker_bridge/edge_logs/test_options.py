"""The command line, the environment and airflow.cfg together say which logs, from which bridge."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from edge_mqtt.broker_bridge.edge_logs.options import BridgeAccess, UsageError, find_bridge, select
from edge_mqtt.broker_bridge.program.settings.setting import Reader, SettingError
from edge_mqtt.broker_bridge.program.settings.sources import CommandLine
from edge_mqtt.broker_bridge.protocol.messages import LogSelector

NOTHING: dict[str, Any] = {
    "dag_id": None,
    "task_id": None,
    "every": False,
    "run_id": None,
    "map_index": None,
    "try_number": None,
    "worker": None,
    "queue": None,
}


def test_what_is_named_is_selected() -> None:
    named = {
        "dag_id": "d",
        "task_id": "t",
        "run_id": "r",
        "map_index": 0,
        "try_number": 2,
        "worker": "w",
        "queue": "q",
    }
    assert select(**NOTHING | named) == LogSelector.model_validate(named)


def test_everything_can_be_narrowed_down() -> None:
    assert select(**NOTHING | {"every": True, "worker": "w"}) == LogSelector(worker="w")


def test_naming_nothing_is_a_mistake() -> None:
    with pytest.raises(UsageError, match="name a Dag"):
        select(**NOTHING)


@pytest.mark.parametrize("too_much", [{"dag_id": "d"}, {"run_id": "r"}])
def test_everything_and_something_is_a_mistake(too_much: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="--all means every Dag"):
        select(**NOTHING | {"every": True} | too_much)


def bridge(environ: dict[str, str], **options: str) -> BridgeAccess:
    return find_bridge(CommandLine(Reader.OPERATOR, options), environ=environ)


@pytest.fixture
def airflow_home(tmp_path: Path) -> Path:
    (tmp_path / "airflow.cfg").write_text(
        "[core]\ndags_folder = 100%\n[edge_mqtt]\nbridge_url = wss://cfg/mqtt\noperator_certs = $TEST_FOLDER/certs\n"
        "topic_prefix = site7\n"
    )
    return tmp_path


def test_options_come_before_everything(airflow_home: Path) -> None:
    environ = {
        "AIRFLOW_HOME": str(airflow_home),
        "EDGE_MQTT_BRIDGE_URL": "wss://env/mqtt",
        "EDGE_MQTT_OPERATOR_CERTS": "/env",
        "EDGE_MQTT_TOPIC_PREFIX": "env",
    }
    options = {"bridge_url": "wss://option/mqtt", "operator_certs": "/option", "topic_prefix": "p"}
    assert bridge(environ, **options) == BridgeAccess(
        url="wss://option/mqtt", certs=Path("/option"), topic_prefix="p"
    )


def test_the_environment_comes_before_airflow_s_file(airflow_home: Path) -> None:
    environ = {
        "AIRFLOW_HOME": str(airflow_home),
        "EDGE_MQTT_BRIDGE_URL": "wss://env/mqtt",
        "AIRFLOW__EDGE_MQTT__OPERATOR_CERTS": "/airflow-env",
    }
    assert bridge(environ) == BridgeAccess(url="wss://env/mqtt", certs=Path("/airflow-env"), topic_prefix="site7")


def test_airflow_s_file_is_read_as_airflow_reads_it(airflow_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_FOLDER", "/t")
    there = BridgeAccess(url="wss://cfg/mqtt", certs=Path("/t/certs"), topic_prefix="site7")
    assert bridge({"AIRFLOW_HOME": str(airflow_home)}) == there
    assert bridge({"AIRFLOW_HOME": "/nowhere", "AIRFLOW_CONFIG": str(airflow_home / "airflow.cfg")}) == there


def test_without_airflow_the_prefix_is_the_usual_one(tmp_path: Path) -> None:
    access = bridge({"AIRFLOW_HOME": str(tmp_path)}, bridge_url="wss://b/mqtt", operator_certs="c")
    assert access.topic_prefix == "edge"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"operator_certs": "c"},
            "bridge_url is not set: give --bridge, or set it in airflow.cfg or as EDGE_MQTT_B",
        ),
        (
            {"bridge_url": "wss://b"},
            "operator_certs is not set: give --certs, or set it in airflow.cfg or as EDGE_M",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, options: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        bridge({"AIRFLOW_HOME": str(tmp_path)}, **options)


@pytest.mark.parametrize("content", [b"bridge_url = x\n", b"[edge_mqtt]\n\xff = 1\n"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "airflow.cfg"
    path.write_bytes(content)
    with pytest.raises(SettingError, match=r"airflow\.cfg cannot be read") as caught:
        bridge({"AIRFLOW_HOME": str(tmp_path)})
    assert "\n" not in str(caught.value)
    # What the line says helps.
    options = {"bridge_url": "wss://b", "operator_certs": "c", "topic_prefix": "edge"}
    assert set(re.findall(r"--[a-z-]+", str(caught.value))) == {"--bridge", "--certs", "--topic-prefix"}
    assert bridge({"AIRFLOW_HOME": str(tmp_path)}, **options).url == "wss://b"
