"""The bridge's settings: Airflow's configuration, section ``[edge_mqtt]``, under the command line's options."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.errors import ConfigurationError
from edge_mqtt.broker_bridge.program.airflow_cfg import configuration_fault
from edge_mqtt.broker_bridge.protocol.errors import InvalidTopic
from edge_mqtt.broker_bridge.protocol.limits import LEASE_MARGIN_S, MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.topics import check_prefix

if TYPE_CHECKING:
    from airflow.configuration import AirflowConfigParser

SECTION = "edge_mqtt"
#: The shortest durations that make sense, in seconds.
_LEAST_SECONDS = {
    "offline_grace": 1.0,
    "kill_grace": 0.0,
    "presence_interval": 0.1,
    "heartbeat_interval": 0.1,
    "ledger_retention": 0.0,
}
#: The least that max_message_size may be, in bytes.
_LEAST_MESSAGE_BYTES = 1024 * 1024
#: Seconds that a restarted bridge waits for the worker of an assigned job before it gives the job to another.
_SETTLE_S = 30.0


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
    #: The same for the tasks of some queues.
    queue_offline_grace: dict[str, float]
    #: Queues whose task logs stay on the worker.
    queues_keeping_logs: frozenset[str]
    kill_grace: float
    presence_interval: float
    heartbeat_interval: float
    #: Bytes of one message's body at most.
    max_message_size: int
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
        try:
            check_prefix(self.topic_prefix)
        except InvalidTopic as error:
            raise ConfigurationError(f"[{SECTION}] {error}") from error
        url = urlsplit(self.execution_api_url)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ConfigurationError(
                f"the Execution API's address {self.execution_api_url!r} is not of the form "
                "http://HOST:PORT/execution/: set [core] execution_api_server_url or --execution-api-url"
            )
        for name in ("bridge_port", "health_port"):
            if not 0 <= getattr(self, name) <= 65535:
                raise ConfigurationError(f"[{SECTION}] {name} must be between 0 and 65535")
        if not _LEAST_MESSAGE_BYTES <= self.max_message_size <= MAX_MESSAGE_BYTES:
            raise ConfigurationError(
                f"[{SECTION}] max_message_size must be between {_LEAST_MESSAGE_BYTES} and {MAX_MESSAGE_BYTES} bytes"
            )
        self._check_graces()

    def _check_graces(self) -> None:
        graces = {"offline_grace": self.offline_grace} | {
            f"queue_offline_grace of queue {queue!r}": grace for queue, grace in self.queue_offline_grace.items()
        }
        for name, grace in graces.items():
            if self.presence_interval > grace:
                raise ConfigurationError(
                    f"[{SECTION}] presence_interval ({self.presence_interval:g} s) must not be longer than {name} "
                    f"({grace:g} s)"
                )

    def dispatch(self) -> DispatchSettings:
        """Return the dispatcher's part of the settings."""
        return DispatchSettings(
            lease_s=self._lease(self.offline_grace),
            lease_s_of={queue: self._lease(grace) for queue, grace in self.queue_offline_grace.items()},
            queues_keeping_logs=self.queues_keeping_logs,
            kill_grace_s=self.kill_grace,
            presence_interval_s=self.presence_interval,
            settle_s=min(_SETTLE_S, self.offline_grace),
        )

    def _lease(self, grace: float) -> float:
        """Return the seconds from a worker's sign of life until the centre gives its running jobs up.

        Longer than the grace: the outage may begin just before the next sign of life, and the worker needs the time
        to end its tasks before another try may begin elsewhere.
        """
        return grace + self.presence_interval + self.kill_grace + LEASE_MARGIN_S


def load_settings(overrides: dict[str, Any]) -> BridgeSettings:
    """Return the settings, ``overrides`` (by field name; None: not given) over Airflow's configuration.

    :raises ConfigurationError: one is missing or wrong.
    """
    with _faults_of_airflow():
        return _converted(_values(overrides))


@contextmanager
def _faults_of_airflow() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        fault = configuration_fault(error)
        if fault is None:
            raise
        raise ConfigurationError(fault) from error


def _values(overrides: dict[str, Any]) -> dict[str, Any]:
    from airflow.configuration import AIRFLOW_HOME, conf

    given = {name: value for name, value in overrides.items() if value is not None}
    values: dict[str, Any] = dict(given)
    defaults = {
        "ledger_url": f"sqlite:///{AIRFLOW_HOME}/edge-mqtt/ledger.db",
        "log_folder": conf.get("logging", "base_log_folder"),
        "execution_api_url": _execution_api_url(conf),
        "queue_offline_grace": "",
        "queues_keeping_logs": "",
    }
    for field in fields(BridgeSettings):
        if field.name in values:
            continue
        value = conf.get(SECTION, field.name, fallback=None) or defaults.get(field.name)
        if value is None:
            raise ConfigurationError(
                f"[{SECTION}] {field.name} is not set: give it in airflow.cfg, as "
                f"AIRFLOW__EDGE_MQTT__{field.name.upper()}, or on the command line"
            )
        values[field.name] = value
    return values


def _execution_api_url(conf: AirflowConfigParser) -> str:
    """Return the Execution API's URL as ``airflow.executors.base_executor`` does, whose import brings all models."""
    base_url = conf.get("api", "base_url", fallback="") or "/"
    if base_url.startswith("/"):
        base_url = f"http://localhost:8080{base_url}"
    return str(conf.get("core", "execution_api_server_url", fallback=f"{base_url.rstrip('/')}/execution/"))


def _converted(values: dict[str, Any]) -> BridgeSettings:
    kinds: dict[str, Callable[[Any], object]] = {
        "int": int,
        "float": float,
        "str": str,
        "Path": Path,
        "dict[str, float]": _graces,
        "frozenset[str]": _queues,
    }
    converted: dict[str, Any] = {}
    for field in fields(BridgeSettings):
        try:
            converted[field.name] = kinds[str(field.type)](values[field.name])
        except ValueError as error:
            raise ConfigurationError(f"[{SECTION}] {field.name}: {values[field.name]!r} is not a number") from error
    return BridgeSettings(**converted)


def _graces(text: str) -> dict[str, float]:
    """Return the grace of each queue, in seconds, from ``queue=seconds, queue=seconds``.

    :raises ConfigurationError: it is not that, or names a queue twice.
    """
    graces: dict[str, float] = {}
    for item in filter(None, map(str.strip, text.split(","))):
        queue, _, seconds = (part.strip() for part in item.rpartition("="))
        try:
            grace = float(seconds)
        except ValueError:
            grace = math.nan
        least = _LEAST_SECONDS["offline_grace"]
        if not queue or not (math.isfinite(grace) and grace >= least):
            raise ConfigurationError(
                f"[{SECTION}] queue_offline_grace: {item!r} is not of the form queue=seconds with at least {least:g} "
                "seconds: write, for example, ship=7200, press=60"
            )
        if queue in graces:
            raise ConfigurationError(f"[{SECTION}] queue_offline_grace names queue {queue!r} twice")
        graces[queue] = grace
    return graces


def _queues(text: str) -> frozenset[str]:
    return frozenset(filter(None, map(str.strip, text.split(","))))
