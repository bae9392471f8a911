"""What the package shows to Airflow before it does anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import entry_points
from pathlib import Path

# Before Airflow's first import, which reads it.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import airflow
import jsonschema
import pytest

import edge_mqtt.executor
from edge_mqtt.executor.cli import get_commands
from edge_mqtt.executor.provider_info import get_provider_info


def run_python(code: str) -> str:
    """Return what a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_neither_airflow_nor_a_transport() -> None:
    heavy = run_python(
        "import sys, edge_mqtt.executor\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('airflow', 'paho', 'sqlalchemy', 'pydantic')])"
    )
    assert heavy == "[]"


def test_airflow_finds_the_class_under_its_path() -> None:
    path = get_provider_info()["executors"][0]
    assert path == "edge_mqtt.executor.EdgeMqttExecutor"
    code = (
        "from airflow.executors.executor_loader import ExecutorLoader\n"
        "from airflow.executors.executor_utils import ExecutorName\n"
        f"print(ExecutorLoader.import_executor_cls(ExecutorName({path!r}))[0].__name__)"
    )
    assert run_python(code).endswith("EdgeMqttExecutor")


def test_importing_the_class_connects_to_nothing() -> None:
    connected = run_python(
        "import sys\n"
        "events = []\n"
        "sys.addaudithook(lambda event, args: events.append(event))\n"
        "from edge_mqtt.executor import EdgeMqttExecutor\n"
        "print('import' in events, [event for event in events if event.endswith('.connect')])"
    )
    # On Python 3.14 Airflow's own imports give warnings, and Airflow prints these.
    assert connected.splitlines()[-1] == "True []"


def test_another_name_is_not_in_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = edge_mqtt.executor.Nonsense


def test_the_provider_info_fits_airflow_s_schema() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())
    jsonschema.validate(get_provider_info(), schema)


def test_the_entry_point_leads_to_the_provider_info() -> None:
    points = entry_points(group="apache_airflow_provider")
    assert any(point.value == "edge_mqtt.executor.provider_info:get_provider_info" for point in points)


def test_every_option_has_a_default_or_an_example() -> None:
    options = get_provider_info()["config"]["edge_mqtt"]["options"]
    assert {name for name, option in options.items() if not option["default"] and not option["example"]} == set()
    assert {"bridge_url", "executor_certs", "worker_queues", "ledger_url", "operator_certs"} <= set(options)


def test_the_commands_of_the_provider_are_airflow_s() -> None:
    (group,) = get_commands()
    assert get_provider_info()["cli"] == [f"{get_commands.__module__}.{get_commands.__qualname__}"]
    assert (group.name, [command.name for command in group.subcommands]) == ("edge-mqtt", ["check"])
