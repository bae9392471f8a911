"""The schema of [edge_mqtt] makes sense by itself and beside the rest of the code."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from edge_mqtt.broker_bridge.program.settings import airflow_settings, schema
from edge_mqtt.broker_bridge.program.settings.schema import SETTINGS, settings_of
from edge_mqtt.broker_bridge.program.settings.setting import Reader, Setting, SettingError, settings_in
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.topics import DEFAULT_PREFIX
from edge_mqtt.broker_bridge.transport.endpoint import parse_url

EVERY = (*SETTINGS, *settings_in(vars(airflow_settings)))


@pytest.mark.parametrize("setting", EVERY, ids=str)
def test_every_default_and_example_is_allowed(setting: Setting[Any]) -> None:
    for text in (setting.default, setting.example):
        if text is not None:
            setting.parse(text)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_every_setting_can_be_explained(setting: Setting[Any]) -> None:
    assert setting.help.endswith(".")
    assert setting.readers
    assert setting.default is not None or setting.example is not None


@pytest.mark.parametrize("reader", Reader)
def test_no_program_has_an_option_twice(reader: Reader) -> None:
    options = [option for setting in settings_of(reader) if (option := setting.readers[reader])]
    assert len(options) == len(set(options))


def test_no_setting_stands_there_twice() -> None:
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_the_protocol_s_own_limits_are_the_schema_s() -> None:
    assert schema.MAX_MESSAGE_SIZE.parse(str(MAX_MESSAGE_BYTES)) == MAX_MESSAGE_BYTES
    with pytest.raises(SettingError):
        schema.MAX_MESSAGE_SIZE.parse(str(MAX_MESSAGE_BYTES + 1))
    assert schema.TOPIC_PREFIX.default == DEFAULT_PREFIX


def test_an_address_that_is_allowed_can_be_connected_to() -> None:
    assert schema.BRIDGE_URL.example is not None
    assert parse_url(schema.BRIDGE_URL.example).port == 443


def test_an_error_names_the_setting_its_place_and_what_is_allowed() -> None:
    with pytest.raises(SettingError) as refusal:
        schema.BRIDGE_PORT.parse("web", origin="/etc/airflow.cfg")
    assert str(refusal.value) == (
        "[edge_mqtt] bridge_port is 'web' (from /etc/airflow.cfg): it must be a whole number from 0 to 65535"
    )


def test_what_may_hold_a_password_is_not_repeated() -> None:
    setting = Setting(name="url", kind=schema.BRIDGE_URL.kind, readers={}, help="It.", sensitive=True)
    with pytest.raises(SettingError) as refusal:
        setting.parse("wss:secret")
    assert "secret" not in str(refusal.value)


def test_the_provider_info_is_read_with_little() -> None:
    # In every process of Airflow.
    code = "import sys, edge_mqtt.executor.provider_info as p; p.get_provider_info(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded.isdisjoint({"airflow", "asyncio", "cryptography", "paho", "pydantic", "sqlalchemy", "typer"})
    ours = {name for name in loaded if name.startswith("edge_mqtt.") and name.count(".") > 1}
    assert ours <= {"edge_mqtt.executor.provider_info", "edge_mqtt.broker_bridge.program"} | {
        name for name in loaded if name.startswith("edge_mqtt.broker_bridge.program.")
    }
