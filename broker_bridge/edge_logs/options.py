"""What ``edge-logs`` was asked for: which logs, from which bridge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.settings import schema
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import AirflowFile, CommandLine, Environment, Values
from edge_mqtt.broker_bridge.protocol.messages import LogSelector


class UsageError(ProgramError):
    """The command line asks for what cannot be done; one line that says what to do."""


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


def find_bridge(command_line: CommandLine, *, environ: Mapping[str, str]) -> BridgeAccess:
    """Return how to reach the bridge: command line, then environment, then airflow.cfg.

    :raises SettingError: the address or the certificate's folder is not set, or a value cannot be used.
    """
    sources = (command_line, Environment(environ, own=True), AirflowFile(Reader.OPERATOR, environ))
    values = Values(Reader.OPERATOR, *sources, environ=environ)
    return BridgeAccess(
        url=values[schema.BRIDGE_URL],
        certs=values[schema.OPERATOR_CERTS],
        topic_prefix=values[schema.TOPIC_PREFIX],
    )
