"""Runs a program's command line: whatever its user did wrong is one line on stderr and an exit code."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence

import typer

from edge_mqtt.broker_bridge.program.console import writes_json
from edge_mqtt.broker_bridge.program.errors import ProgramError
from edge_mqtt.broker_bridge.program.exit_codes import ExitCode

log = logging.getLogger(__name__)


def new_app(program: str) -> typer.Typer:
    """Return an app for the command line of ``program``."""
    # Not rich's markup: it takes what is in brackets for its own.
    return typer.Typer(name=program, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def run_command(
    app: typer.Typer,
    program: str,
    arguments: Sequence[str] | None = None,
    *,
    code_of: Callable[[ProgramError], ExitCode] = lambda _: ExitCode.USAGE,
) -> int:
    """Run the command line and return the program's exit code.

    :param arguments: the command line without the program's name; None: the process's own.
    :param code_of: the exit code for an error that ended the program.
    """
    try:
        result = app(args=arguments, prog_name=program, standalone_mode=False)
    except typer.TyperException as error:
        # Its own form is several lines, and names the library's validation step.
        text = " ".join(error.format_message().split()).replace("Value error, ", "").rstrip(".")
        say(program, f"{text}. See {program} --help.")
        return ExitCode.USAGE
    except ProgramError as error:
        say(program, str(error))
        return code_of(error)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Python flushes stdout at its end and would complain that it can't.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    return result if isinstance(result, int) else ExitCode.DONE


def say(program: str, text: str) -> None:
    """Write one line of the program's own to stderr."""
    if writes_json():
        log.error("%s", text, extra={"action": "program_error", "program": program})
    else:
        typer.echo(f"{program}: {text}", err=True)
