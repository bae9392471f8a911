"""The Airflow side: an executor that hands jobs to the edge bridge over one MQTT connection.

``edge_mqtt.executor.EdgeMqttExecutor`` is what Airflow's ``[core] executor`` names. It is imported when it is asked
for, so that importing this package costs nothing and touches nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_mqtt.executor.edge_mqtt_executor import EdgeMqttExecutor

__all__ = ["EdgeMqttExecutor"]


def __getattr__(name: str) -> type[EdgeMqttExecutor]:
    """Import the executor's class at its first use."""
    if name == "EdgeMqttExecutor":
        from edge_mqtt.executor.edge_mqtt_executor import EdgeMqttExecutor

        return EdgeMqttExecutor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
