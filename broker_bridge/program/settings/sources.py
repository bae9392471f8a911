"""Where the programs find the values of settings: command line, then environment, then airflow.cfg, then the default.

Where Airflow is loaded its own configuration is asked for all but the command line, so that everything counts that
counts for Airflow: variables, ``_CMD`` and ``_SECRET`` variants of sensitive settings, a team's values. ``edge-logs``
runs without Airflow, which takes seconds to load and makes files in AIRFLOW_HOME: it looks at the same places itself.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

from edge_mqtt.broker_bridge.program.settings.schema import settings_of
from edge_mqtt.broker_bridge.program.settings.setting import AIRFLOW_HOME, Reader, Setting, SettingError

T = TypeVar("T")

#: The ends of a variable's name with which Airflow is told to run a command, or to ask a secrets backend.
INDIRECT: Final = ("", "_CMD", "_SECRET")


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a setting was set to, and where."""

    text: str
    #: The command-line option; None: not on the command line.
    option: str | None = None
    #: The file or the variable.
    origin: str = ""


class Source(Protocol):
    """A place where settings can be set."""

    def find(self, setting: Setting[Any]) -> Found | None:
        """Return what ``setting`` is set to here; None when it is not, or to nothing."""


class AirflowConf(Protocol):
    """What is asked of Airflow's configuration; an executor of a team sees its team's values."""

    def get(self, section: str, key: str, *, fallback: str | None) -> str | None:
        """Return an option's value."""


class CommandLine:
    """The options that were given, by the setting's name."""

    def __init__(self, reader: Reader, given: Mapping[str, str | None]) -> None:
        """Check what was given, so that what is wrong shows before anything is loaded.

        :raises SettingError: a value is not allowed.
        """
        self._reader = reader
        self._given = given
        for setting in settings_of(reader):
            found = self.find(setting)
            if found is not None:
                setting.parse(found.text, option=found.option)

    def find(self, setting: Setting[Any]) -> Found | None:
        """Return what its option was given."""
        text = self._given.get(setting.name)
        option = setting.readers.get(self._reader)
        return None if text is None or option is None else Found(text=text, option=option)


class Environment:
    """Environment variables, for a program that runs without Airflow or has not loaded it yet."""

    def __init__(self, environ: Mapping[str, str], *, own: bool = False) -> None:
        """Prepare.

        :param own: look at our own variables too, before Airflow's.
        """
        self._environ = environ
        self._own = own

    def find(self, setting: Setting[Any]) -> Found | None:
        """Return what its variable says."""
        variables = (setting.own_variable, setting.variable) if self._own else (setting.variable,)
        for variable in variables:
            if text := self._environ.get(variable):
                return Found(text=_expanded(text), origin=variable)
        return None


class AirflowFile:
    """The file airflow.cfg, for a program that runs without Airflow. Read when it is needed first."""

    def __init__(self, reader: Reader, environ: Mapping[str, str]) -> None:
        self._reader = reader
        self._path = airflow_cfg(environ)
        self._parser: configparser.ConfigParser | None = None

    def find(self, setting: Setting[Any]) -> Found | None:
        """Return what the file says.

        :raises SettingError: it is no configuration file.
        """
        if self._parser is None:
            self._parser = self._read()
        text = self._parser.get(setting.section, setting.name, fallback="")
        return Found(text=_expanded(text), origin=str(self._path)) if text else None

    def _read(self) -> configparser.ConfigParser:
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(self._path.read_text(encoding="utf-8"), source=str(self._path))
        except OSError:
            # No Airflow here, or not for us to read: what is missing is told by its name.
            return configparser.ConfigParser()
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            options = [option for setting in settings_of(self._reader) if (option := setting.readers[self._reader])]
            raise SettingError(
                f"{self._path} cannot be read ({reason}): fix it, or give all of {', '.join(options)}"
            ) from error
        return parser


class AirflowConfiguration:
    """Airflow's own configuration, in a process that has loaded it."""

    def __init__(self, conf: AirflowConf, *, environ: Mapping[str, str], team: str | None = None) -> None:
        self._conf = conf
        self._environ = environ
        self._team = team

    def find(self, setting: Setting[Any]) -> Found | None:
        """Return what Airflow says, which may be its default.

        :raises SettingError: it is set to what Airflow cannot read, such as a reference to nothing.
        """
        try:
            # What a command prints ends with a line feed.
            text = (self._conf.get(setting.section, setting.name, fallback=None) or "").strip()
        except configparser.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            raise SettingError(f"{setting} cannot be read (from {self._origin(setting)}): {reason}") from error
        return Found(text=text, origin=self._origin(setting)) if text else None

    def _origin(self, setting: Setting[Any]) -> str:
        """Return where Airflow has it from, as far as can be told without asking in every place as it does."""
        variable = setting.variable_of(self._team)
        for name in (f"{variable}{end}" for end in INDIRECT):
            if name in self._environ:
                return name
        return str(airflow_cfg(self._environ))


class Snapshot:
    """What another source answered, for a process that does not have it."""

    def __init__(self, found: Mapping[str, Found]) -> None:
        self._found = found

    @classmethod
    def of(cls, source: Source, settings: Iterable[Setting[Any]]) -> Snapshot:
        """Ask ``source`` for all of ``settings``."""
        answers = ((setting, source.find(setting)) for setting in settings)
        return cls({str(setting): found for setting, found in answers if found is not None})

    def find(self, setting: Setting[Any]) -> Found | None:
        """Return what the source answered."""
        return self._found.get(str(setting))


class Values:
    """The values of a program's settings, from the first source that has them, else the default."""

    def __init__(
        self,
        reader: Reader,
        *sources: Source,
        environ: Mapping[str, str] = os.environ,
        team: str | None = None,
    ) -> None:
        """Prepare; nothing is read before it is asked for.

        :param environ: where AIRFLOW_HOME is looked up.
        :param team: whose values the sources have.
        """
        self._reader = reader
        self._sources = sources
        self._team = team
        self._airflow_home = str(_airflow_home(environ))

    def __getitem__(self, setting: Setting[T]) -> T:
        """Return the value.

        :raises SettingError: it is not set and has no default, or it is wrong.
        """
        value = self.get(setting)
        if value is None:
            raise setting.missing(self._reader, team=self._team)
        return value

    def get(self, setting: Setting[T]) -> T | None:
        """Return the value; None when it is not set and has no default.

        :raises SettingError: it is wrong.
        """
        for source in self._sources:
            found = source.find(setting)
            if found is not None:
                text = found.text.replace(AIRFLOW_HOME, self._airflow_home)
                return setting.parse(text, option=found.option, origin=found.origin)
        if setting.default is None:
            return None
        return setting.parse(setting.default.replace(AIRFLOW_HOME, self._airflow_home))


def _airflow_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("AIRFLOW_HOME") or "~/airflow").expanduser()


def airflow_cfg(environ: Mapping[str, str]) -> Path:
    """Return where Airflow's configuration file is, in the order of airflow/configuration.py."""
    if config := environ.get("AIRFLOW_CONFIG"):
        return Path(config).expanduser()
    return _airflow_home(environ) / "airflow.cfg"


def _expanded(text: str) -> str:
    # As airflow/_shared/configuration/parser.py does it.
    while (expanded := os.path.expanduser(os.path.expandvars(text))) != text:  # noqa: PTH111 -- not always a path
        text = expanded
    return text
