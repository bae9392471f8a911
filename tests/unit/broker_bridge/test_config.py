"""The bridge's settings are understood or refused in one line, and what differs by queue reaches the dispatcher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.executors.base_executor import get_execution_api_server_url

from edge_mqtt.broker_bridge.config import BridgeSettings, load_settings
from edge_mqtt.broker_bridge.errors import ConfigurationError


def settings(**given: Any) -> BridgeSettings:
    defaults: dict[str, Any] = {
        "bridge_certs": Path("/certs"),
        "execution_api_url": "http://localhost:8080/execution/",
        "log_folder": Path("/logs"),
    }
    return load_settings(defaults | given)


def test_nothing_differs_by_queue_by_default() -> None:
    loaded = settings()
    assert (loaded.queue_offline_grace, loaded.queues_keeping_logs) == ({}, frozenset())


def test_a_queue_has_its_own_grace_and_keeps_its_logs() -> None:
    loaded = settings(queue_offline_grace=" ship=7200, a=b =60 ,", queues_keeping_logs="cameras, lab 3,")
    assert loaded.queue_offline_grace == {"ship": 7200.0, "a=b": 60.0}
    assert loaded.queues_keeping_logs == {"cameras", "lab 3"}


def test_a_lease_is_longer_than_its_grace_by_what_both_sides_need_to_agree_on_its_end() -> None:
    dispatch = settings(
        offline_grace=900,
        queue_offline_grace="ship=7200",
        queues_keeping_logs="lab",
        presence_interval=20,
        kill_grace=10,
    ).dispatch()
    assert (dispatch.lease_s, dispatch.lease_s_of) == (935.0, {"ship": 7235.0})
    assert (dispatch.queues_keeping_logs, dispatch.kill_grace_s, dispatch.presence_interval_s) == (
        {"lab"},
        10.0,
        20.0,
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"queue_offline_grace": "ship"}, "'ship' is not of the form queue=seconds"),
        ({"queue_offline_grace": "=60"}, "'=60' is not of the form queue=seconds"),
        ({"queue_offline_grace": "ship=soon"}, "'ship=soon' is not of the form queue=seconds"),
        ({"queue_offline_grace": "ship=nan"}, "'ship=nan' is not of the form queue=seconds"),
        ({"queue_offline_grace": "ship=inf"}, "'ship=inf' is not of the form queue=seconds"),
        ({"queue_offline_grace": "ship=0.5"}, "at least 1 seconds"),
        ({"queue_offline_grace": "ship=60, ship=70"}, "names queue 'ship' twice"),
        (
            {"queue_offline_grace": "ship=19"},
            "presence_interval (20 s) must not be longer than queue_offline_grace of",
        ),
        ({"offline_grace": 10}, "presence_interval (20 s) must not be longer than offline_grace (10 s)"),
        ({"max_message_size": 1000}, "max_message_size must be between 1048576 and 67108864 bytes"),
        ({"max_message_size": 10**9}, "max_message_size must be between 1048576 and 67108864 bytes"),
        ({"bridge_port": "web"}, "bridge_port: 'web' is not a number"),
    ],
)
def test_nonsense_is_refused_in_one_line(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
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
    assert settings(execution_api_url=None).execution_api_url == get_execution_api_server_url()
