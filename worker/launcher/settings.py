"""What the worker needs of Airflow's configuration, read where Airflow is loaded."""

from __future__ import annotations

import os

from edge_mqtt.broker_bridge.program.settings.schema import PRELOAD_IMPORTS, settings_of
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import AirflowConfiguration, Snapshot, Values


def read_settings() -> Snapshot:
    """Return all that the worker goes by, for the process that has no Airflow in it."""
    from airflow.sdk.configuration import conf

    return Snapshot.of(AirflowConfiguration(conf, environ=os.environ), settings_of(Reader.WORKER))


def modules_to_preload() -> tuple[str, ...]:
    """Return the modules that are imported ahead of the tasks."""
    return Values(Reader.WORKER, read_settings())[PRELOAD_IMPORTS]
