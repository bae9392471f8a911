"""The bridge's settings, from the command line and from Airflow's configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edge_mqtt.broker_bridge.dispatch.core.settings import DispatchSettings
from edge_mqtt.broker_bridge.errors import ConfigurationError
from edge_mqtt.broker_bridge.program.airflow_cfg import configuration_fault
from edge_mqtt.broker_bridge.program.console import TEXT
from edge_mqtt.broker_bridge.program.log_files import LogModes
from edge_mqtt.broker_bridge.program.settings import airflow_settings, schema
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import AirflowConfiguration, CommandLine, Values
from edge_mqtt.broker_bridge.protocol.limits import LEASE_MARGIN_S

#: Seconds that a restarted bridge waits for the worker of an assigned job before it gives the job to another.
_SETTLE_S = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeSettings:
    """What the bridge goes by."""

    certs: Path
    host: str
    port: int
    health_host: str
    health_port: int
    log_format: str = TEXT
    #: May hold a password.
    ledger_url: str = field(repr=False)
    ledger_retention_s: float
    topic_prefix: str
    offline_grace_s: float
    #: The same for the tasks of some queues.
    queue_offline_grace_s: Mapping[str, float]
    #: Queues whose task logs stay on the worker.
    queues_keeping_logs: frozenset[str]
    kill_grace_s: float
    presence_interval_s: float
    heartbeat_interval_s: float
    #: Bytes of one message's body at most.
    max_message_bytes: int
    #: Airflow's base_log_folder.
    log_folder: Path
    #: Modes of new files and folders below it.
    log_modes: LogModes = field(default_factory=LogModes)
    #: Base URL of the Execution API.
    execution_api_url: str

    def __post_init__(self) -> None:
        """Refuse what cannot work together."""
        graces = {str(schema.OFFLINE_GRACE): self.offline_grace_s} | {
            f"{schema.QUEUE_OFFLINE_GRACE} of queue {queue!r}": grace_s
            for queue, grace_s in self.queue_offline_grace_s.items()
        }
        for name, grace_s in graces.items():
            if self.presence_interval_s > grace_s:
                raise ConfigurationError(
                    f"{schema.PRESENCE_INTERVAL} ({self.presence_interval_s:g} s) must not be longer than {name} "
                    f"({grace_s:g} s)"
                )

    def dispatch(self) -> DispatchSettings:
        """Return the dispatcher's part of the settings."""
        return DispatchSettings(
            lease_s=self._lease_s(self.offline_grace_s),
            lease_s_of={queue: self._lease_s(grace_s) for queue, grace_s in self.queue_offline_grace_s.items()},
            queues_keeping_logs=self.queues_keeping_logs,
            kill_grace_s=self.kill_grace_s,
            presence_interval_s=self.presence_interval_s,
            settle_s=min(_SETTLE_S, self.offline_grace_s),
        )

    def _lease_s(self, grace_s: float) -> float:
        """Return the seconds from a worker's sign of life until the bridge gives up its running jobs.

        Longer than the grace: the outage may begin just before the next sign of life, and the worker needs the time
        to end its tasks before another try may begin elsewhere.
        """
        return grace_s + self.presence_interval_s + self.kill_grace_s + LEASE_MARGIN_S


def load_settings(command_line: CommandLine) -> BridgeSettings:
    """Return the settings.

    :raises SettingError: one is missing or wrong.
    :raises ConfigurationError: some do not go together, or Airflow's configuration cannot be used.
    """
    with _faults_of_airflow():
        from airflow.configuration import conf

        values = Values(Reader.BRIDGE, command_line, AirflowConfiguration(conf, environ=os.environ))
        return _settings_in(values)


def _settings_in(values: Values) -> BridgeSettings:
    queues_keeping_logs = values[schema.QUEUES_KEEPING_LOGS]
    return BridgeSettings(
        certs=values[schema.BRIDGE_CERTS],
        host=values[schema.BRIDGE_HOST],
        port=values[schema.BRIDGE_PORT],
        health_host=values[schema.HEALTH_HOST],
        health_port=values[schema.HEALTH_PORT],
        log_format=values[schema.LOG_FORMAT],
        ledger_url=values[schema.LEDGER_URL],
        ledger_retention_s=values[schema.LEDGER_RETENTION],
        topic_prefix=values[schema.TOPIC_PREFIX],
        offline_grace_s=values[schema.OFFLINE_GRACE],
        queue_offline_grace_s=values[schema.QUEUE_OFFLINE_GRACE],
        queues_keeping_logs=frozenset(queues_keeping_logs),
        kill_grace_s=values[schema.KILL_GRACE],
        presence_interval_s=values[schema.PRESENCE_INTERVAL],
        heartbeat_interval_s=values[schema.HEARTBEAT_INTERVAL],
        max_message_bytes=values[schema.MAX_MESSAGE_SIZE],
        log_folder=values[airflow_settings.BASE_LOG_FOLDER],
        log_modes=LogModes.of(values),
        execution_api_url=values.get(airflow_settings.EXECUTION_API_URL) or _execution_api_url(values),
    )


@contextmanager
def _faults_of_airflow() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        fault = configuration_fault(error)
        if fault is None:
            raise
        raise ConfigurationError(fault) from error


def _execution_api_url(values: Values) -> str:
    """Return the Execution API's URL as ``airflow.executors.base_executor`` does, whose import brings all models."""
    base_url = values.get(airflow_settings.API_BASE_URL) or "/"
    if base_url.startswith("/"):
        base_url = f"http://localhost:8080{base_url}"
    return f"{base_url.rstrip('/')}/execution/"
