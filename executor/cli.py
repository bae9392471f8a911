"""The commands that this distribution adds to Airflow's: ``airflow edge-mqtt check``.

Imported by every ``airflow`` command, so it imports nothing but what describes the commands.
"""

from __future__ import annotations

from airflow.cli.cli_config import ActionCommand, GroupCommand, lazy_load_command


def get_commands() -> list[GroupCommand]:
    """Return the commands; named under ``cli`` in the provider info."""
    check = ActionCommand(
        name="check",
        help="Check the executor's settings, its certificate and the way to the bridge",
        func=lazy_load_command("edge_mqtt.executor.check.check_command"),
        args=(),
    )
    return [GroupCommand(name="edge-mqtt", help="Tasks on edge machines, over MQTT", subcommands=(check,))]
