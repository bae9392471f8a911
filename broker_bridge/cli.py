"""``edge-bridge``: the bridge between Airflow and its edge workers."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from typing import Annotated

import typer

from edge_mqtt.broker_bridge.program import interrupt
from edge_mqtt.broker_bridge.program.command import new_app, run_command
from edge_mqtt.broker_bridge.program.console import log_to_stderr
from edge_mqtt.broker_bridge.program.settings import schema
from edge_mqtt.broker_bridge.program.settings.options import Given, with_settings
from edge_mqtt.broker_bridge.program.settings.setting import Reader
from edge_mqtt.broker_bridge.program.settings.sources import CommandLine, Environment, Values
from edge_mqtt.broker_bridge.program.settings.unknown import warn_of_unknown_settings
from edge_mqtt.broker_bridge.program.version import VersionOption

PROGRAM = "edge-bridge"

log = logging.getLogger(__name__)

app = new_app(PROGRAM)


@app.command()
@with_settings(Reader.BRIDGE)
def run(
    *,
    given: Given,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    version: VersionOption = False,  # noqa: ARG001 -- has done its work by now
) -> int:
    """Run the bridge next to the scheduler. Settings come from Airflow's configuration, section [edge_mqtt]."""
    level = logging.DEBUG if verbose else logging.INFO
    command_line = CommandLine(Reader.BRIDGE, given)
    log_to_stderr(level, Values(Reader.BRIDGE, command_line, Environment(os.environ))[schema.LOG_FORMAT])
    # Only Airflow's settings are wanted: neither its database nor its logging, which take half of the bridge's start.
    # Read by airflow/__init__.py.
    os.environ["_AIRFLOW__AS_LIBRARY"] = "1"
    from edge_mqtt.broker_bridge.config import load_settings

    settings = load_settings(command_line)
    log_to_stderr(level, settings.log_format)
    warn_of_unknown_settings(log, os.environ)
    from edge_mqtt.broker_bridge.app import Bridge

    async def start() -> int:
        bridge = Bridge(settings)
        loop = asyncio.get_running_loop()
        interrupt.call_in_loop(loop, dict.fromkeys((signal.SIGTERM, signal.SIGINT), bridge.ask_to_stop))
        code = await bridge.run()
        # All is done: one more could only spoil the exit code.
        interrupt.ignore()
        return code

    return asyncio.run(start())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the program's exit code.

    :param arguments: the command line without the program's name; None: the process's own.
    """
    return run_command(app, PROGRAM, arguments)
