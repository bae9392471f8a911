"""The bridge's settings: Airflow's configuration, section ``[edge_mqtt]``, under the command line's options."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge_mqtt.broker_bridge.errors import ConfigurationError
from edge_mqtt.broker_bridge.protocol.lease import LEASE_MARGIN_S

SECTION = "edge_mqtt"
#: The shortest durations that make sense, in seconds.
_LEAST_SECONDS = {
    "offline_grace": 1.0,
    "kill_grace": 0.0,
    "presence_interval": 0.1,
    "heartbeat_interval": 0.1,
    "ledger_retention": 0.0,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeSettings:
    """Everything that can be set. Durations are in seconds."""

    bridge_certs: Path
    bridge_host: str
    bridge_port: int
    health_host: str
    health_port: int
    ledger_url: str
    ledger_retention: float
    topic_prefix: str
    offline_grace: float
    kill_grace: float
    presence_interval: float
    heartbeat_interval: float
    #: Airflow's base_log_folder.
    log_folder: Path
    #: Base URL of the Execution API.
    execution_api_url: str

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        for name, least in _LEAST_SECONDS.items():
            seconds = getattr(self, name)
            if not (math.isfinite(seconds) and seconds >= least):
                raise ConfigurationError(f"[{SECTION}] {name} must be at least {least:g} seconds, not {seconds:g}")
        if not self.topic_prefix or set(self.topic_prefix) & set("/+#$"):
            raise ConfigurationError(
                f"[{SECTION}] topic_prefix {self.topic_prefix!r} must be one level, without / + # $"
            )
        url = urlsplit(self.execution_api_url)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ConfigurationError(
                f"the Execution API's address {self.execution_api_url!r} is not of the form "
                "http://HOST:PORT/execution/: set [core] execution_api_server_url or --execution-api-url"
            )
        for name in ("bridge_port", "health_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigurationError(f"[{SECTION}] {name} must be between 0 and 65535")
        if self.presence_interval > self.offline_grace:
            raise ConfigurationError(
                f"[{SECTION}] presence_interval ({self.presence_interval:g} s) must not be longer than offline_grace "
                f"({self.offline_grace:g} s)"
            )

    @property
    def lease(self) -> float:
        """Seconds from a worker's sign of life until the centre gives its running jobs up.

        Longer than ``offline_grace``: the outage may begin just before the next sign of life, and the worker needs
        the time to end its tasks before another try may begin elsewhere.
        """
        return self.offline_grace + self.presence_interval + self.kill_grace + LEASE_MARGIN_S


def load_settings(overrides: dict[str, Any]) -> BridgeSettings:
    """Return the settings, ``overrides`` (by field name; None: not given) over Airflow's configuration.

    :raises ConfigurationError: one is missing or wrong.
    """
    from airflow.configuration import AIRFLOW_HOME, conf
    from airflow.exceptions import AirflowConfigException
    from airflow.executors.base_executor import get_execution_api_server_url

    given = {name: value for name, value in overrides.items() if value is not None}
    values: dict[str, Any] = dict(given)
    defaults = {
        "ledger_url": f"sqlite:///{AIRFLOW_HOME}/edge-mqtt/ledger.db",
        "log_folder": conf.get("logging", "base_log_folder"),
        "execution_api_url": get_execution_api_server_url(),
    }
    for field in fields(BridgeSettings):
        if field.name in values:
            continue
        try:
            value = conf.get(SECTION, field.name, fallback=None) or defaults.get(field.name)
        except AirflowConfigException as error:
            raise ConfigurationError(f"[{SECTION}] {field.name}: {error}") from error
        if value is None:
            raise ConfigurationError(
                f"[{SECTION}] {field.name} is not set: give it in airflow.cfg, as "
                f"AIRFLOW__EDGE_MQTT__{field.name.upper()}, or on the command line"
            )
        values[field.name] = value
    return _converted(values)


def _converted(values: dict[str, Any]) -> BridgeSettings:
    kinds = {"int": int, "float": float, "str": str, "Path": Path}
    converted = {}
    for field in fields(BridgeSettings):
        try:
            converted[field.name] = kinds[str(field.type)](values[field.name])
        except ValueError as error:
            raise ConfigurationError(f"[{SECTION}] {field.name}: {values[field.name]!r} is not a number") from error
    return BridgeSettings(**converted)
