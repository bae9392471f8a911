"""``edge-bridge``: the bridge between Airflow and its edge workers."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from edge_mqtt.broker_bridge.program.command import new_app, run_command
from edge_mqtt.broker_bridge.program.version import VersionOption

PROGRAM = "edge-bridge"

app = new_app(PROGRAM)


@app.command()
def run(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on for workers [bridge_host].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on for workers [bridge_port].")] = None,
    certs: Annotated[Path | None, typer.Option(help="Folder with the bridge's certificate [bridge_certs].")] = None,
    health_host: Annotated[str | None, typer.Option(help="Address of /healthz [health_host].")] = None,
    health_port: Annotated[int | None, typer.Option(help="Loopback port of /healthz [health_port].")] = None,
    ledger_url: Annotated[str | None, typer.Option(help="Database of the ledger [ledger_url].")] = None,
    ledger_retention: Annotated[float | None, typer.Option(help="Seconds that finished jobs are kept.")] = None,
    log_folder: Annotated[Path | None, typer.Option(help="Where task logs go [logging] base_log_folder.")] = None,
    execution_api_url: Annotated[str | None, typer.Option(help="Airflow's Execution API.")] = None,
    offline_grace: Annotated[float | None, typer.Option(help="Seconds a task survives out of reach.")] = None,
    queue_offline_grace: Annotated[str | None, typer.Option(help="The same by queue: ship=7200, press=60.")] = None,
    queues_keeping_logs: Annotated[str | None, typer.Option(help="Queues whose logs stay on the worker.")] = None,
    kill_grace: Annotated[float | None, typer.Option(help="Seconds between SIGTERM and SIGKILL.")] = None,
    presence_interval: Annotated[float | None, typer.Option(help="Seconds between workers' signs of life.")] = None,
    heartbeat_interval: Annotated[float | None, typer.Option(help="Seconds between heartbeats to Airflow.")] = None,
    max_message_size: Annotated[int | None, typer.Option(help="Bytes of an answer to a task's call.")] = None,
    topic_prefix: Annotated[str | None, typer.Option(help="First level of every topic.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: VersionOption = False,  # noqa: ARG001 -- has done its work by now
) -> int:
    """Run the bridge next to the scheduler. Settings come from Airflow's configuration, section [edge_mqtt]."""
    given: dict[str, object] = {
        "bridge_host": host,
        "bridge_port": port,
        "bridge_certs": certs,
        "health_host": health_host,
        "health_port": health_port,
        "ledger_url": ledger_url,
        "ledger_retention": ledger_retention,
        "log_folder": log_folder,
        "execution_api_url": execution_api_url,
        "offline_grace": offline_grace,
        "queue_offline_grace": queue_offline_grace,
        "queues_keeping_logs": queues_keeping_logs,
        "kill_grace": kill_grace,
        "presence_interval": presence_interval,
        "heartbeat_interval": heartbeat_interval,
        "max_message_size": max_message_size,
        "topic_prefix": topic_prefix,
    }
    from edge_mqtt.broker_bridge.program.console import log_to_stderr

    log_to_stderr(logging.DEBUG if verbose else logging.INFO)
    # Only Airflow's settings are wanted: neither its database nor its logging, which take half of the bridge's start.
    # Read by airflow/__init__.py.
    os.environ["_AIRFLOW__AS_LIBRARY"] = "1"
    from edge_mqtt.broker_bridge.config import load_settings

    settings = load_settings(given)
    from edge_mqtt.broker_bridge.app import Bridge

    async def start() -> int:
        return await Bridge(settings).run()

    return asyncio.run(start())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the program's exit code.

    :param arguments: the command line without the program's name; None: the process's own.
    """
    return run_command(app, PROGRAM, arguments)
