"""A setting: its name in Airflow's configuration, who reads it, what it may be, and the error when it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Generic, TypeVar

from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.settings.kinds import Kind, NotAllowed

#: Our section of Airflow's configuration.
SECTION: Final = "edge_mqtt"
#: What stands for Airflow's home folder in a value.
AIRFLOW_HOME: Final = "{AIRFLOW_HOME}"

T = TypeVar("T")


class SettingError(ProgramError):
    """A setting or an option is missing or wrong: one line that names it, where it is set and what is allowed."""


class Reader(StrEnum):
    """The program that reads a setting."""

    BRIDGE = "bridge"
    EXECUTOR = "executor"
    WORKER = "worker"
    OPERATOR = "edge-logs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting(Generic[T]):
    """One setting. ``{AIRFLOW_HOME}`` in its default and in its value stands for that folder."""

    name: str
    kind: Kind[T]
    #: Who reads it, and the reader's command-line option for it where there is one.
    readers: Mapping[Reader, str | None]
    #: One sentence; ``--help`` shows it.
    help: str
    #: What else there is to know, for the documentation.
    more: str = ""
    #: The text that counts when nothing is set; None: there is no such text.
    default: str | None = None
    example: str | None = None
    #: The value may hold a password: it is not repeated, and Airflow hides it and takes it from a command or a
    #: secrets backend too.
    sensitive: bool = False
    #: The section of Airflow's configuration.
    section: str = SECTION

    def __str__(self) -> str:
        return f"[{self.section}] {self.name}"

    @property
    def variable(self) -> str:
        """The environment variable from which Airflow takes it."""
        return self.variable_of(None)

    def variable_of(self, team: str | None) -> str:
        """Return the environment variable from which Airflow takes it for a team; None: for all that have none."""
        whose = "" if team is None else f"{team.upper()}___"
        return f"AIRFLOW__{whose}{self.section.upper()}__{self.name.upper()}"

    def described(self, team: str | None) -> str:
        """Return its name, and whose it is."""
        return str(self) if team is None else f"{self} of team {team!r}"

    @property
    def own_variable(self) -> str:
        """The variable that a program without Airflow looks at first: shorter, and of no matter to Airflow."""
        return f"{self.section.upper()}_{self.name.upper()}"

    @property
    def description(self) -> str:
        """All that there is to know of it, but for its default."""
        allowed = self.kind.allowed
        return " ".join(filter(None, (self.help, self.more, f"Allowed: {allowed}." if allowed else "")))

    def parse(self, text: str, *, option: str | None = None, origin: str = "") -> T:
        """Return the value that ``text`` is.

        :param option: the command-line option that was given it.
        :param origin: else, the file or variable that has it.
        :raises SettingError: it is none.
        """
        try:
            return self.kind.parse(text)
        except NotAllowed as error:
            value = "" if self.sensitive else f" is {text!r}"
            where = f" (from {origin})" if origin else ""
            raise SettingError(f"{option or self}{value}{where}: {error}") from None

    def missing(self, reader: Reader, *, team: str | None = None) -> SettingError:
        """Return the error that nothing is set.

        :param team: whose value is asked for; Airflow does not give a team the value of all others.
        """
        option = self.readers[reader]
        variable = self.own_variable if reader is Reader.OPERATOR else self.variable_of(team)
        ways = f"give {option}, or set it" if option else "set it"
        place = "airflow.cfg" if team is None else f"airflow.cfg, below [{team}={self.section}],"
        example = f" (such as {self.example})" if self.example else ""
        return SettingError(
            f"{self.described(team)} is not set: {ways} in {place} or as {variable}. {self.help.rstrip('.')}{example}"
        )


def settings_in(module: Mapping[str, object]) -> tuple[Setting[Any], ...]:
    """Return the settings among a module's names, in its order: none can be forgotten in a list."""
    return tuple(value for value in module.values() if isinstance(value, Setting))
