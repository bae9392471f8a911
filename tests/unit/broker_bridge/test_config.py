"""The bridge's settings are understood or refused in one line, and what differs by queue reaches the dispatcher."""

from __future__ import annotations

import pytest
from airflow.executors.base_executor import get_execution_api_server_url

from edge_mqtt.broker_bridge.config import BridgeSettings, load_settings
from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.log_files import LogModes
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import CommandLine


def settings(**given: str) -> BridgeSettings:
    defaults = {"bridge_certs": "/certs", "base_log_folder": "/logs"}
    return load_settings(CommandLine(Reader.BRIDGE, defaults | given))


def test_nothing_differs_by_queue_by_default() -> None:
    loaded = settings()
    assert (loaded.queue_offline_grace_s, loaded.queues_keeping_logs) == ({}, frozenset())


def test_a_queue_has_its_own_grace_and_keeps_its_logs() -> None:
    loaded = settings(queue_offline_grace=" ship=7200, a=b =60 ,", queues_keeping_logs="cameras, lab 3,")
    assert loaded.queue_offline_grace_s == {"ship": 7200.0, "a=b": 60.0}
    assert loaded.queues_keeping_logs == {"cameras", "lab 3"}


def test_new_log_files_get_the_modes_that_airflow_s_settings_say(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings().log_modes == LogModes(folder=0o775, file=0o664)
    monkeypatch.setenv("AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FOLDER_PERMISSIONS", "0o750")
    monkeypatch.setenv("AIRFLOW__LOGGING__FILE_TASK_HANDLER_NEW_FILE_PERMISSIONS", "0o640")
    assert settings().log_modes == LogModes(folder=0o750, file=0o640)


def test_a_lease_is_longer_than_its_grace_by_what_both_sides_need_to_agree_on_its_end() -> None:
    dispatch = settings(
        offline_grace="900",
        queue_offline_grace="ship=7200",
        queues_keeping_logs="lab",
        presence_interval="20",
        kill_grace="10",
    ).dispatch()
    assert (dispatch.lease_s, dispatch.lease_s_of) == (935.0, {"ship": 7235.0})
    assert (dispatch.queues_keeping_logs, dispatch.kill_grace_s, dispatch.presence_interval_s) == (
        frozenset({"lab"}),
        10.0,
        20.0,
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"queue_offline_grace": "ship=19"},
            "must not be longer than [edge_mqtt] queue_offline_grace of queue 'ship'",
        ),
        (
            {"offline_grace": "10"},
            "[edge_mqtt] presence_interval (20 s) must not be longer than [edge_mqtt] offline_grace (10 s)",
        ),
        ({"bridge_port": "web"}, "--port is 'web': it must be a whole number from 0 to 65535"),
        ({"execution_api_server_url": "airflow:8080"}, "--execution-api-url is 'airflow:8080'"),
        ({"bridge_certs": ""}, "--certs is '': it must be the path of a folder"),
    ],
)
def test_nonsense_is_refused_in_one_line(given: dict[str, str], says: str) -> None:
    with pytest.raises(ProgramError) as refusal:
        settings(**given)
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"AIRFLOW__API__BASE_URL": "/"},
        {"AIRFLOW__API__BASE_URL": "/airflow/"},
        {"AIRFLOW__API__BASE_URL": "https://airflow.example.org/here"},
        {
            "AIRFLOW__API__BASE_URL": "https://airflow.example.org/",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://a:1/e",
        },
    ],
)
def test_the_execution_api_is_where_airflow_s_own_executors_find_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert settings().execution_api_url == get_execution_api_server_url()


def test_the_ledger_s_url_can_come_from_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__EDGE_MQTT__LEDGER_URL_CMD", "echo postgresql://edge:secret@db/edge")
    assert settings().ledger_url == "postgresql://edge:secret@db/edge"


def test_the_password_in_the_ledger_s_url_is_in_no_repr() -> None:
    assert "secret" not in repr(settings(ledger_url="postgresql://edge:secret@db/edge"))
