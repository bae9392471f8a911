"""``python -m tests.benchmarks.executors``: this executor beside LocalExecutor, Celery and edge3 on real Airflows."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Final

import typer
from rich.console import Console

from deploy.quickstart.display import show_problem
from deploy.quickstart.errors import StackError
from tests.benchmarks import page
from tests.benchmarks.executors import machine, plots
from tests.benchmarks.executors.peers import SYSTEMS
from tests.benchmarks.executors.report import sheets
from tests.benchmarks.executors.session import FULL, QUICK, Session

_FILE_COLUMNS: Final = 150


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def benchmark(
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer of everything, one WAN: half of the time.")] = False,
    rounds: Annotated[int | None, typer.Option(help="Turns of every executor.", min=1)] = None,
    only: Annotated[list[str] | None, typer.Option(help="Leave out the others: ours, celery, local, edge3.")] = None,
    raw: Annotated[Path | None, typer.Option("--json", help="Write the raw figures there.")] = None,
    source: Annotated[
        Path | None, typer.Option("--from", help="Measure nothing: show the raw figures there.")
    ] = None,
    write_docs: Annotated[
        bool, typer.Option("--write-docs", help="Write docs/benchmarks.md and its pictures.")
    ] = False,
) -> None:
    """Measure the executors in turn, print tables, and write the documentation's part."""
    # Whoever ends us, the systems must end too: they run in sessions of their own.
    signal.signal(signal.SIGTERM, _interrupt)
    # A file has no width of its own, and the tables are wide.
    console = Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    found = (
        json.loads(source.read_text())
        if source
        else _measure(console, quick=quick, rounds=rounds, only=only, raw=raw)
    )
    page.show(console, found["machine"], sheets(found["figures"]))
    if write_docs:
        _write_docs(found)
    if any(figures["failed"] for figures in found["figures"].values()):
        raise typer.Exit(1)


def _measure(
    console: Console, *, quick: bool, rounds: int | None, only: list[str] | None, raw: Path | None
) -> dict[str, Any]:
    plan = QUICK if quick else FULL
    kinds = [kind for kind in SYSTEMS if not only or kind.__name__.lower() in only]
    if not kinds:
        raise typer.BadParameter(
            f"none of {', '.join(kind.__name__.lower() for kind in SYSTEMS)}", param_hint="--only"
        )
    began = time.monotonic()
    # Not the folder that TMPDIR names: a unix socket's path may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    session = Session(
        directory,
        kinds,
        replace(plan, rounds=rounds or plan.rounds),
        lambda text: console.print(f"[dim]{time.monotonic() - began:6.0f} s[/] {text}"),
    )
    found = {"machine": machine.describe(), "figures": session.figures}
    in_order = False
    try:
        session.run()
        in_order = not session.failed
    except StackError as error:
        show_problem(error)
        raise typer.Exit(1) from error
    finally:
        if raw:
            raw.write_text(json.dumps(page.rounded(found), indent=1))
        if in_order:
            shutil.rmtree(directory)
        else:
            console.print(f"[bold]output of all parts is in {directory}[/]")
    return found


def _write_docs(found: dict[str, Any]) -> None:
    plots.draw(found["figures"], page.PICTURES)
    page.write_raw("executors", found)
    page.write_part("results", found["machine"], sheets(found["figures"]))


if __name__ == "__main__":
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(benchmark)
    app()
