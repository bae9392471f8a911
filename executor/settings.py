"""The executor's settings, read from Airflow's configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edge_mqtt.broker_bridge.program.settings import airflow_settings, schema
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import AirflowConf, AirflowConfiguration, Values


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorSettings:
    """What the executor goes by."""

    #: Where the bridge listens: ``wss://host:443/mqtt``.
    bridge_url: str
    #: The folder with ``ca.crt``, ``tls.crt`` and ``tls.key``.
    certs: Path
    #: The first level of every topic.
    topic_prefix: str
    #: Seconds between MQTT keep alive pings.
    keep_alive_s: int
    #: Bytes of a workload at most; a larger one fails.
    max_message_bytes: int
    #: The queue of workloads that name none.
    default_queue: str
    #: The queue of callbacks that name none; empty: the one of their run's tasks.
    callback_queue: str
    #: Seconds that a callback may wait for a worker.
    queued_timeout_s: float
    #: Seconds for which the final event of a job that is not this executor's is kept for an adoption.
    unclaimed_for_s: float


def load_settings(conf: AirflowConf, *, team: str | None = None, shared: AirflowConf) -> ExecutorSettings:
    """Return the settings.

    :param conf: the configuration of this executor: its team's, where it has one.
    :param shared: the configuration of the scheduler, which has no team: there Airflow reads its own sections.
    :raises SettingError: one is missing or wrong.
    """
    values = Values(Reader.EXECUTOR, AirflowConfiguration(conf, environ=os.environ, team=team), team=team)
    airflow = Values(Reader.EXECUTOR, AirflowConfiguration(shared, environ=os.environ))
    return ExecutorSettings(
        bridge_url=values[schema.BRIDGE_URL],
        certs=values[schema.EXECUTOR_CERTS],
        topic_prefix=values[schema.TOPIC_PREFIX],
        keep_alive_s=values[schema.KEEP_ALIVE],
        max_message_bytes=values[schema.MAX_MESSAGE_SIZE],
        default_queue=airflow[airflow_settings.DEFAULT_QUEUE],
        callback_queue=values[schema.CALLBACK_QUEUE],
        queued_timeout_s=airflow[airflow_settings.TASK_QUEUED_TIMEOUT],
        unclaimed_for_s=_adoption_window_s(airflow),
    )


def _adoption_window_s(values: Values) -> float:
    """Return how long after a scheduler's death another one may still adopt its tasks: two checks, to be sure."""
    check_s = values[airflow_settings.ORPHANED_TASKS_CHECK_INTERVAL]
    return 2 * check_s + values[airflow_settings.SCHEDULER_DEAD_AFTER]
