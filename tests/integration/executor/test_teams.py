"""Several executors in one scheduler: each reads its own settings, and each needs a name of its own."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow.exceptions import AirflowConfigException

from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store
from edge_mqtt.executor import EdgeMqttExecutor

pytestmark = pytest.mark.usefixtures("database")

#: Nobody listens there.
URL = "wss://127.0.0.1:9/mqtt"
SETTINGS = ("BRIDGE_URL", "EXECUTOR_CERTS")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    now = datetime.now(UTC)
    made.create(hosts=["127.0.0.1"], force=False, now=now)
    for name in ("one", "two"):
        made.issue(Identity(Role.EXECUTOR, name), force=False, now=now)
    return made


def give(monkeypatch: pytest.MonkeyPatch, team: str | None, store: Store, name: str, url: str = URL) -> None:
    """Set a team's settings, or everybody's."""
    whose = "" if team is None else f"{team.upper()}___"
    monkeypatch.setenv(f"AIRFLOW__{whose}EDGE_MQTT__BRIDGE_URL", url)
    folder = store.folder(Identity(Role.EXECUTOR, name))
    monkeypatch.setenv(f"AIRFLOW__{whose}EDGE_MQTT__EXECUTOR_CERTS", str(folder))


@contextmanager
def started(team: str | None) -> Iterator[EdgeMqttExecutor]:
    executor = EdgeMqttExecutor(team_name=team)
    executor.start()
    try:
        yield executor
    finally:
        executor.terminate()


@pytest.mark.parametrize(("setting", "name"), [("BRIDGE_URL", "bridge_url"), ("EXECUTOR_CERTS", "executor_certs")])
def test_what_a_team_lacks_is_named_as_it_is_to_be_set_for_the_team(
    monkeypatch: pytest.MonkeyPatch, store: Store, setting: str, name: str
) -> None:
    give(monkeypatch, None, store, "one")
    give(monkeypatch, "team_a", store, "two")
    monkeypatch.delenv(f"AIRFLOW__TEAM_A___EDGE_MQTT__{setting}")
    with pytest.raises(AirflowConfigException) as raised, started("team_a"):
        pass
    line = str(raised.value)
    assert line.startswith(
        f"[edge_mqtt] {name} of team 'team_a' is not set: set it in airflow.cfg, below [team_a=edge_mqtt], "
        f"or as AIRFLOW__TEAM_A___EDGE_MQTT__{setting}."
    )
    assert "\n" not in line


def test_a_wrong_value_of_a_team_is_named_by_the_team_s_variable(
    monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    give(monkeypatch, "team_a", store, "one")
    monkeypatch.setenv("AIRFLOW__TEAM_A___EDGE_MQTT__KEEP_ALIVE", "soon")
    with (
        pytest.raises(AirflowConfigException, match="from AIRFLOW__TEAM_A___EDGE_MQTT__KEEP_ALIVE"),
        started("team_a"),
    ):
        pass


def test_airflow_s_own_sections_are_those_of_everybody(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    give(monkeypatch, "team_a", store, "one")
    for section, option, value in (
        ("SCHEDULER", "TASK_QUEUED_TIMEOUT", "77"),
        ("SCHEDULER", "ORPHANED_TASKS_CHECK_INTERVAL", "11"),
        ("SCHEDULER", "SCHEDULER_HEALTH_CHECK_THRESHOLD", "3"),
        ("OPERATORS", "DEFAULT_QUEUE", "press"),
        ("EDGE_MQTT", "CALLBACK_QUEUE", "everybody's"),
        ("TEAM_A___EDGE_MQTT", "CALLBACK_QUEUE", "the team's"),
    ):
        monkeypatch.setenv(f"AIRFLOW__{section}__{option}", value)
    with started("team_a") as executor:
        _, settings = executor._started()
    assert (settings.queued_timeout_s, settings.unclaimed_for_s) == (77, 25)
    assert (settings.default_queue, settings.callback_queue) == ("press", "the team's")


@pytest.mark.parametrize(
    ("first", "of_first"), [(None, "the executor without a team"), ("team_a", "of team 'team_a'")]
)
def test_two_executors_with_one_certificate_are_found_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
    store: Store,
    caplog: pytest.LogCaptureFixture,
    first: str | None,
    of_first: str,
) -> None:
    give(monkeypatch, first, store, "one")
    # The same bridge, written another way.
    give(monkeypatch, "team_b", store, "one", url="wss://127.0.0.1:9")
    with started(first):
        with pytest.raises(AirflowConfigException) as raised, started("team_b"):
            pass
        line = str(raised.value)
        assert line.startswith("[edge_mqtt] executor_certs of team 'team_b' is ")
        assert "the certificate of executor:one, which " in line
        assert of_first in line
        assert line.endswith("and set AIRFLOW__TEAM_B___EDGE_MQTT__EXECUTOR_CERTS to its folder")
        assert line in caplog.text
        give(monkeypatch, "team_b", store, "two")
        with started("team_b"):
            pass
    give(monkeypatch, "team_b", store, "one")
    with started("team_b"):
        pass


def test_lines_about_a_team_s_bridge_name_the_team(
    monkeypatch: pytest.MonkeyPatch, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    give(monkeypatch, "team_a", store, "one")
    monkeypatch.setenv("AIRFLOW__TEAM_A___EDGE_MQTT__EXECUTOR_CERTS", str(tmp_path / "nowhere"))
    with caplog.at_level(logging.ERROR, logger="edge_mqtt.executor.bridge_client"), started("team_a") as executor:
        client, _ = executor._started()
        client.adopt([], timeout_s=0)
        with client._changed:
            client._changed.wait_for(lambda: client._problem != "not connected yet", 10.0)
    assert "no connection to the bridge of team 'team_a': " in caplog.text
