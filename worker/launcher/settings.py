"""What the worker needs of Airflow's configuration, read where Airflow is loaded."""

from __future__ import annotations

import configparser
import os

from edge_mqtt.broker_bridge.program.settings.airflow_settings import BUNDLE_CLEANUP_INTERVAL
from edge_mqtt.broker_bridge.program.settings.schema import PRELOAD_IMPORTS, settings_of
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import AirflowConfiguration, Snapshot, Values
from edge_mqtt.worker.launcher.environment import FIXED, missing_defaults


def settle_settings() -> Snapshot:
    """Return all that the worker goes by; let Airflow go by our defaults where the site has set nothing.

    Before anything of Airflow's is loaded that asks for a setting once and for all.

    :raises SettingError: one of those that the worker reads cannot be read.
    """
    from airflow.sdk.configuration import conf

    def has_option(section: str, name: str) -> bool:
        # Not Airflow's own method of this name, to which a default counts too: only the file.
        return configparser.ConfigParser.has_option(conf, section, name)

    os.environ.update(missing_defaults(os.environ, has_option))
    settings = read_settings()
    os.environ.update({option.variable: value for option, value in FIXED.items()})
    return settings


def read_settings() -> Snapshot:
    """Return all that the worker goes by, for the process that has no Airflow in it."""
    from airflow.sdk.configuration import conf

    return Snapshot.of(AirflowConfiguration(conf, environ=os.environ), settings_of(Reader.WORKER))


def cleanup_interval_s() -> int:
    """Return the seconds between looks for old versions of Dag bundles; 0 or less: there are none."""
    return Values(Reader.WORKER, read_settings())[BUNDLE_CLEANUP_INTERVAL]


def modules_to_preload() -> tuple[str, ...]:
    """Return the modules that are imported ahead of the tasks."""
    return Values(Reader.WORKER, read_settings())[PRELOAD_IMPORTS]
