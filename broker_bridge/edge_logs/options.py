"""What ``edge-logs`` was asked for: which logs, from which bridge."""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.protocol.errors import InvalidTopic
from edge_mqtt.broker_bridge.protocol.messages import LogSelector
from edge_mqtt.broker_bridge.protocol.topics import DEFAULT_PREFIX, check_prefix

SECTION: Final = "edge_mqtt"


class UsageError(ProgramError):
    """The command line or a setting cannot be used; one line that says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BridgeAccess:
    """Where the bridge is and who we are to it."""

    url: str
    #: The folder with the operator's ``ca.crt``, ``tls.crt`` and ``tls.key``.
    certs: Path
    topic_prefix: str


def select(
    *,
    dag_id: str | None,
    task_id: str | None,
    every: bool,
    run_id: str | None,
    map_index: int | None,
    try_number: int | None,
    worker: str | None,
    queue: str | None,
) -> LogSelector:
    """Return the selector for what the command line names.

    :param every: ``--all`` was given.
    :raises UsageError: nothing is named, or too much.
    """
    if dag_id is None and not every:
        raise UsageError("name a Dag (edge-logs DAG_ID), or read everything with --all -f")
    if every and (dag_id is not None or run_id is not None):
        raise UsageError("--all means every Dag: leave out DAG_ID, TASK_ID and --run-id, or leave out --all")
    return LogSelector(
        dag_id=dag_id,
        task_id=task_id,
        run_id=run_id,
        map_index=map_index,
        try_number=try_number,
        worker=worker,
        queue=queue,
    )


def find_bridge(
    *, url: str | None, certs: Path | None, topic_prefix: str | None, environ: Mapping[str, str]
) -> BridgeAccess:
    """Return how to reach the bridge: command line, then environment, then airflow.cfg.

    Airflow itself is not imported: that takes seconds, and makes files in AIRFLOW_HOME.

    :raises UsageError: the address or the certificate's folder is nowhere to be found, or the prefix cannot be used.
    """
    settings = _Settings(environ)
    found_url = url or settings.get("bridge_url", "EDGE_MQTT_BRIDGE_URL")
    found_certs = certs or settings.get("operator_certs", "EDGE_MQTT_OPERATOR_CERTS")
    if not found_url:
        raise UsageError("where is the bridge? Give --bridge wss://HOST:443/mqtt or set EDGE_MQTT_BRIDGE_URL")
    if not found_certs:
        raise UsageError(
            "which certificate? Give --certs DIR or set EDGE_MQTT_OPERATOR_CERTS to the folder that "
            "'edge-certs issue operator NAME' made"
        )
    found_prefix = topic_prefix or settings.get("topic_prefix", "EDGE_MQTT_TOPIC_PREFIX") or DEFAULT_PREFIX
    try:
        check_prefix(found_prefix)
    except InvalidTopic as error:
        raise UsageError(str(error)) from error
    return BridgeAccess(url=found_url, certs=Path(found_certs).expanduser(), topic_prefix=found_prefix)


class _Settings:
    """Options of ``[edge_mqtt]`` in the order in which Airflow looks them up: environment, then file."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self._file: Mapping[str, str] | None = None

    def get(self, option: str, variable: str) -> str | None:
        """Return an option's value, first from ``variable``; None when it is set nowhere."""
        for name in (variable, f"AIRFLOW__{SECTION.upper()}__{option.upper()}"):
            if value := self._environ.get(name):
                return value
        if self._file is None:
            self._file = _section_of(_airflow_cfg(self._environ))
        value = self._file.get(option)
        return os.path.expandvars(value) if value else None


def _airflow_cfg(environ: Mapping[str, str]) -> Path:
    # The order of airflow/configuration.py.
    if config := environ.get("AIRFLOW_CONFIG"):
        return Path(config).expanduser()
    return Path(environ.get("AIRFLOW_HOME") or "~/airflow").expanduser() / "airflow.cfg"


def _section_of(path: Path) -> Mapping[str, str]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"), source=str(path))
    except OSError:
        # No Airflow here, or not for us to read: the caller says what is missing.
        return {}
    except (configparser.Error, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{path} cannot be read ({reason}): mend it, or give all of --bridge, --certs and --topic-prefix"
        ) from error
    return parser[SECTION] if parser.has_section(SECTION) else {}
