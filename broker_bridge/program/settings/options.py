"""The settings as options of a program's command line."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from edge_mqtt.broker_bridge.program.settings.schema import settings_of
from edge_mqtt.broker_bridge.program.settings.setting import SECTION, Reader, Setting

#: What was given on the command line, by the setting's name; None where nothing was.
Given = Mapping[str, str | None]


def with_settings(reader: Reader) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Put an option for every setting of ``reader`` that has one in the place of the argument ``given``."""
    settings = [setting for setting in settings_of(reader) if setting.readers[reader]]

    def decorate(command: Callable[..., int]) -> Callable[..., int]:
        options = [_parameter(setting, reader) for setting in settings]
        parameters: list[inspect.Parameter] = []
        for name, parameter in inspect.signature(command, eval_str=True).parameters.items():
            parameters.extend(options if name == "given" else [parameter])

        @functools.wraps(command)
        def run(**arguments: Any) -> int:
            given: Given = {setting.name: arguments.pop(setting.name) for setting in settings}
            return command(given=given, **arguments)

        # Both are what typer looks at.
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    return decorate


def _parameter(setting: Setting[Any], reader: Reader) -> inspect.Parameter:
    allowed = f" Allowed: {setting.kind.allowed}." if setting.kind.allowed else ""
    name = setting.name if setting.section == SECTION else str(setting)
    if reader is Reader.OPERATOR:
        name = f"{name} or {setting.own_variable}"
    default = f"; default {setting.default}" if setting.default else ""
    option = typer.Option(
        setting.readers[reader],
        help=f"{setting.help}{allowed} ({name}{default})",
        metavar=setting.kind.metavar,
        show_default=False,
    )
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, option]
    )
