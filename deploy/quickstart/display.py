"""What the quickstart shows: services coming up, the outcome, and where to look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.spinner import Spinner
from rich.table import Table

from deploy.quickstart.errors import ServiceFailed, StackError
from deploy.quickstart.process import Service

_STATE_STYLES = {"success": "green", "failed": "red", "upstream_failed": "yellow", "running": "cyan"}


class Progress:
    """Shows which services are up: a live table on a terminal, a line a service elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._told: set[str] = set()
        self._spinners: dict[str, Spinner] = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Show while the block runs."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=10) as self._live:
            yield

    def update(self, services: Sequence[Service]) -> None:
        """Show the services as they are now."""
        if self._live is not None:
            self._live.update(self._table(services))
            return
        for service in services:
            if service.took_s is not None and service.name not in self._told:
                self._told.add(service.name)
                self._console.print(f"  {service.name} up after {service.took_s:.1f} s", highlight=False)

    def _table(self, services: Sequence[Service]) -> Table:
        table = Table.grid(padding=(0, 2))
        for service in services:
            if service.took_s is not None:
                table.add_row("[green]✔[/]", service.name, f"[dim]{service.took_s:.1f} s[/]")
            elif service.started_at:
                spinner = self._spinners.setdefault(service.name, Spinner("dots"))
                table.add_row(spinner, service.name, "[dim]coming up[/]")
            else:
                table.add_row(" ", f"[dim]{service.name}[/]", "[dim]waits for the database[/]")
        return table


def show_problem(problem: StackError) -> None:
    """Show on standard error what went wrong and, when a service failed, the end of what it wrote."""
    console = Console(stderr=True)
    console.print(f"[bold red]✘ {escape(str(problem))}[/]", highlight=False, soft_wrap=True)
    if isinstance(problem, ServiceFailed) and problem.last_lines:
        console.print(f"[red]last lines of {problem.name}:[/]")
        for line in problem.last_lines:
            console.print(f"  {escape(line)}", highlight=False, soft_wrap=True)


def show_task_instances(console: Console, task_instances: Sequence[dict[str, Any]]) -> None:
    """Show where and how each task instance ended."""
    table = Table()
    for heading in ("task", "state", "queue", "ran on"):
        table.add_column(heading)
    for heading in ("tries", "seconds"):
        table.add_column(heading, justify="right")
    for each in sorted(task_instances, key=_when):
        state = str(each["state"])
        style = _STATE_STYLES.get(state, "white")
        duration = each["duration"]
        table.add_row(
            _task_name(each),
            f"[{style}]{state}[/]",
            each["queue"],
            each["hostname"],
            str(each["try_number"]),
            "" if duration is None else f"{duration:.1f}",
        )
    console.print(table)


def show_addresses(console: Console, *, url: str, username: str, password: str, bridge_url: str) -> None:
    """Show where the UI is and how to log in."""
    table = Table.grid(padding=(0, 2))
    table.add_row("Airflow", f"[bold cyan]{url}[/]")
    table.add_row("login", f"{username} / {password}")
    table.add_row("bridge", bridge_url)
    console.print(Panel(table, expand=False, border_style="cyan"))


def _task_name(instance: dict[str, Any]) -> str:
    name = str(instance["task_id"])
    index = instance["map_index"]
    # Doubled: one backslash keeps rich from reading the index as a style.
    return name if index < 0 else f"{name}\\[{index}]"


def _when(instance: dict[str, Any]) -> tuple[str, str, int]:
    return (instance["start_date"] or "~", instance["task_id"], instance["map_index"])
