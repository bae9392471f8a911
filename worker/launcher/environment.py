"""The environment of the launcher, and so of every supervisor and task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Option:
    """An option of Airflow's configuration."""

    section: str
    name: str

    @property
    def variable(self) -> str:
        """The environment variable that sets it."""
        return f"AIRFLOW__{self.section.upper()}__{self.name.upper()}"


#: What makes the supervisor look at its task often. Its heartbeats are answered by the worker on the same machine,
#: and it sees its task's end only when that time is over if the task's last sockets close together (airflow.sdk
#: execution_time/supervisor.py, ``_monitor_subprocess``). In seconds.
HEARTBEAT_INTERVAL: Final = Option(section="workers", name="min_heartbeat_interval")
#: Airflow looks for example Dags in every provider whenever a task parses its Dag, and writes into the task's log
#: about those that have none. They have no business on the edge.
EXAMPLES: Final = Option(section="core", name="load_examples")
#: Our defaults, where they are not Airflow's.
DEFAULTS: Final[Mapping[Option, str]] = {HEARTBEAT_INTERVAL: "1", EXAMPLES: "False"}
#: What is to be deleted is the worker's to delete: Airflow's remote logging would do it before the bridge has it, and
#: take the logs of earlier tries with it.
FIXED: Final[Mapping[Option, str]] = {Option(section="logging", name="delete_local_logs"): "False"}
#: Where Airflow looks for an option: in itself, in what a command prints, in a secrets backend.
_INDIRECT: Final = ("", "_cmd", "_secret")
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
    return {name: value for name, value in environment.items() if not name.startswith(_NOT_FOR_TASKS)}


def missing_defaults(environment: Mapping[str, str], has_option: Callable[[str, str], bool]) -> dict[str, str]:
    """Return the variables that set our defaults where the site has set nothing.

    :param has_option: tells whether a section of its configuration file has an option.
    """
    return {
        option.variable: value for option, value in DEFAULTS.items() if not _is_set(option, environment, has_option)
    }


def _is_set(option: Option, environment: Mapping[str, str], has_option: Callable[[str, str], bool]) -> bool:
    return any(
        option.variable + end.upper() in environment or has_option(option.section, option.name + end)
        for end in _INDIRECT
    )
