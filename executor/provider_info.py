"""What Airflow's providers manager asks about this distribution: the executor and the ``[edge_mqtt]`` options.

``airflow config list`` and the configuration reference show these. Schema: ``airflow/provider_info.schema.json``.
Every process of Airflow reads this, so what it imports is small.
"""

from __future__ import annotations

from typing import Any

from edge_mqtt.broker_bridge.program.settings.schema import SETTINGS
from edge_mqtt.broker_bridge.program.settings.setting import SECTION, Setting

PACKAGE_NAME = "airflow-edge-mqtt"
#: The version of this distribution that brought the first options.
_FIRST = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description; called through the ``apache_airflow_provider`` entry point."""
    return {
        "package-name": PACKAGE_NAME,
        "name": "Edge MQTT",
        "description": "Runs tasks on machines behind firewalls, over one outbound MQTT-over-WebSockets connection.",
        "cli": ["edge_mqtt.executor.cli.get_commands"],
        "executors": ["edge_mqtt.executor.EdgeMqttExecutor"],
        "config": {
            SECTION: {
                "description": (
                    "The edge executor, the bridge and the edge workers. Times are in seconds. Each part reads "
                    "only its own options; those of a part that does not run on this machine need not be set."
                ),
                "options": {setting.name: _option(setting) for setting in SETTINGS},
            }
        },
    }


def _option(setting: Setting[Any]) -> dict[str, Any]:
    option = {
        "description": setting.description,
        "version_added": _FIRST,
        "type": setting.kind.airflow_type,
        "example": setting.example,
        "default": setting.default or None,
    }
    return {**option, "sensitive": True} if setting.sensitive else option
