"""The environment of the launcher, and so of every supervisor and task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

#: What makes the supervisor look at its task often. Its heartbeats are answered by the worker on the same machine,
#: and it sees its task's end only when that time is over if the task's last sockets close together (airflow.sdk
#: execution_time/supervisor.py, ``_monitor_subprocess``).
HEARTBEAT_VARIABLE: Final = "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"
HEARTBEAT_INTERVAL_S: Final = "1"
#: Airflow looks for example Dags in every provider whenever a task parses its Dag, and writes into the task's log
#: about those that have none. They have no business on the edge.
EXAMPLES_VARIABLE: Final = "AIRFLOW__CORE__LOAD_EXAMPLES"
#: Airflow's remote logging would delete logs here, those of earlier tries with them, before the bridge has them.
DELETE_LOGS_VARIABLE: Final = "AIRFLOW__LOGGING__DELETE_LOCAL_LOGS"
#: Settings of the data centre that have no business in a task's environment on the edge.
_NOT_FOR_TASKS: Final = (
    "AIRFLOW__API_AUTH__",
    "AIRFLOW__DATABASE__",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__CORE__INTERNAL_API_SECRET_KEY",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__CORE__SQL_ALCHEMY_CONN",
)


def launcher_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the launcher's environment, made of the worker's."""
    kept = {name: value for name, value in environment.items() if not name.startswith(_NOT_FOR_TASKS)}
    kept.setdefault(HEARTBEAT_VARIABLE, HEARTBEAT_INTERVAL_S)
    kept.setdefault(EXAMPLES_VARIABLE, "False")
    kept[DELETE_LOGS_VARIABLE] = "False"
    return kept
