"""``python -m tests.chaos``: break the real thing for some minutes and see whether a task notices."""

from __future__ import annotations

import secrets
import signal
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from deploy.quickstart.display import show_problem
from deploy.quickstart.errors import StackError
from tests.chaos.postgres import PostgresMissing
from tests.chaos.run import run_chaos
from tests.chaos.verdict import Verdict


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def show(console: Console, verdict: Verdict) -> None:
    """Print the figures, what is remarkable, and what is wrong."""
    table = Table("figure", "")
    table.columns[1].justify = "right"
    for name, value in verdict.figures():
        table.add_row(name, value)
    console.print(table)
    for heading, lines in (("remarkable", verdict.remarks), ("WRONG", verdict.problems)):
        for line in lines:
            console.print(f"{heading}: {line}", highlight=False, markup=False, soft_wrap=True)


def chaos(
    *,
    minutes: Annotated[float, typer.Option(min=0.1, help="How long faults happen; start and end come on top.")] = 5.0,
    seed: Annotated[
        int | None, typer.Option(help="Draws the faults and the stream; a new one when not given.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the folder there even when all is well.")] = False,
) -> None:
    """Kill and cut everything at random while tasks run; exit code 0 when nothing was lost and nothing ran twice."""
    # Whoever ends us, the parts must end too: they run in sessions of their own.
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    console = Console()

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    try:
        verdict = run_chaos(
            seconds=minutes * 60, seed=secrets.randbelow(10**6) if seed is None else seed, keep=keep, say=say
        )
    except StackError as error:
        show_problem(error)
        raise typer.Exit(2 if isinstance(error, PostgresMissing) else 1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    show(console, verdict)
    raise typer.Exit(1 if verdict.problems else 0)


if __name__ == "__main__":
    typer.run(chaos)
