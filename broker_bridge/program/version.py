"""This distribution's version, and the commands' ``--version``."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer

from edge_mqtt.broker_bridge.program.extras import DISTRIBUTION


@cache
def own_version() -> str:
    """Return this distribution's version."""
    try:
        return version(DISTRIBUTION)
    except PackageNotFoundError:
        return "unknown"


def _show(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{DISTRIBUTION} {own_version()}")
        raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", callback=_show, is_eager=True, help="Show the version and end.")
]
