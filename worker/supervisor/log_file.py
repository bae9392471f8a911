"""A job's log file, made before Airflow's supervisor opens it."""

from __future__ import annotations

import os

from edge_mqtt.broker_bridge.program.log_files import LogModes, open_log_file
from edge_mqtt.broker_bridge.program.settings.airflow_settings import BASE_LOG_FOLDER
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import AirflowConfiguration, Values


def make_log_file(log_path: str | None) -> None:
    """Make a job's log file and its folders with the modes that Airflow's settings say.

    :raises OSError: it cannot be made.
    """
    if log_path is None:
        return
    from airflow.sdk.configuration import conf

    values = Values(Reader.WORKER, AirflowConfiguration(conf, environ=os.environ))
    os.close(open_log_file(values[BASE_LOG_FOLDER] / log_path, os.O_WRONLY | os.O_APPEND, LogModes.of(values)))
