"""``python -m deploy.quickstart``: the whole system on this machine, and a Dag that runs on its edge."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from deploy.quickstart.demo import Demo, exit_code
from deploy.quickstart.display import show_problem
from deploy.quickstart.errors import DirectoryInUse


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def quickstart(
    *,
    once: Annotated[bool, typer.Option("--once", help="End after the run; exit code 0 when it succeeded.")] = False,
    directory: Annotated[
        Path, typer.Option("--dir", help="Where everything is put; cleared at every start.", file_okay=False)
    ] = Path(".demo"),
) -> None:
    """Start Airflow, a bridge and an edge worker here, run the demo Dag on the worker and tail it."""
    # Whoever ends us, the services must end too: they run in sessions of their own.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        demo = Demo(directory, Console())
    except DirectoryInUse as error:
        show_problem(error)
        raise typer.Exit(exit_code(error)) from None
    raise typer.Exit(demo.run(once=once))


if __name__ == "__main__":
    typer.run(quickstart)
