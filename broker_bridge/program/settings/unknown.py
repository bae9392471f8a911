"""Names in our section of Airflow's configuration that are no setting: a slip, which Airflow says nothing about."""

from __future__ import annotations

import configparser
import difflib
import logging
from collections.abc import Iterator, Mapping
from typing import Final

from edge_mqtt.broker_bridge.program.settings.schema import SETTINGS
from edge_mqtt.broker_bridge.program.settings.setting import SECTION
from edge_mqtt.broker_bridge.program.settings.sources import INDIRECT, airflow_cfg

_PREFIX: Final = f"AIRFLOW__{SECTION.upper()}__"
_KNOWN: Final = frozenset(setting.name for setting in SETTINGS if setting.section == SECTION)


def warn_of_unknown_settings(log: logging.Logger, environ: Mapping[str, str]) -> None:
    """Log a line for each name that no program reads."""
    for line in unknown_settings(environ):
        log.warning("%s", line, extra={"action": "setting_unknown"})


def unknown_settings(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return a line for each name that no program reads, from the environment and from airflow.cfg."""
    return tuple(_line(name, origin) for name, origin in _names(environ) if name not in _KNOWN)


def _names(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for variable in sorted(environ):
        if variable.startswith(_PREFIX):
            # The longest end first: each name ends with nothing, too.
            end = next(end for end in sorted(INDIRECT, key=len, reverse=True) if variable.endswith(end))
            yield variable.removeprefix(_PREFIX).removesuffix(end).lower(), variable
    path = airflow_cfg(environ)
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, configparser.Error, UnicodeDecodeError):
        return  # Whoever reads a setting says what is wrong with the file.
    if parser.has_section(SECTION):
        for name in parser[SECTION]:
            # Names of [DEFAULT] are in every section.
            if name not in parser.defaults():
                yield name.removesuffix("_cmd").removesuffix("_secret"), str(path)


def _line(name: str, origin: str) -> str:
    similar = difflib.get_close_matches(name, _KNOWN, n=1)
    advice = f"did you mean {similar[0]}?" if similar else "docs/configuration.md has the names"
    return f"[{SECTION}] {name} (from {origin}) is no setting, it changes nothing: {advice}"
