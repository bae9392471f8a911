"""How heavy a worker is: its install, its programs at their start and at rest, and tasks on a small machine.

    python -m tests.benchmarks.weight [install] [extras] [rest] [board]

Everything is measured with a fresh install of what a worker needs, made from this checkout.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.benchmarks.weight.idle import Site, help_cpu_s, help_modules
from tests.benchmarks.weight.installs import EXTRAS, INSTALLS, Install, install, weighed
from tests.benchmarks.weight.small import run_on_board

PARTS = ("install", "extras", "rest", "board")
COMMANDS = ("edge-worker", "edge-bridge", "edge-logs", "edge-certs")
#: Packages that are named.
LARGEST = 12
ROUNDS = 3


def installs(console: Console, folder: Path) -> None:
    """Print the installs' sizes side by side."""
    made = {name: install(folder / name, requirements) for name, requirements in INSTALLS.items()}
    show_sizes(console, "a worker's install", made, ours=made["edge-mqtt"])


def extras(console: Console, folder: Path) -> None:
    """Print the sizes of the installs by role."""
    made = {
        name: install(folder / f"extra-{number}", requirements)
        for number, (name, requirements) in enumerate(EXTRAS.items())
    }
    show_sizes(console, "installs by role", made, ours=made["worker"])


def show_sizes(console: Console, title: str, made: dict[str, Install], *, ours: Install) -> None:
    """Print a table of installs, with their sizes in relation to one of them."""
    table = Table(title=title)
    for column in ("", "MB", "to ours", "packages", "the largest, MB"):
        table.add_column(column, justify="left" if column.startswith("the") else "right")
    for name, each in made.items():
        largest = ", ".join(f"{package} {size / 2**20:.0f}" for package, size in list(each.sizes.items())[:LARGEST])
        ratio = each.megabytes / ours.megabytes
        table.add_row(name, f"{each.megabytes:.0f}", f"{ratio:.2f}", str(len(each.sizes)), largest)
    console.print(table)


def rest(console: Console, folder: Path, worker: Install, seconds: float) -> None:
    """Print what starting costs, and what the programs do while there is nothing to do."""
    scripts = Path(sys.executable).parent
    table = Table(title="COMMAND --help")
    for column in ("", "CPU, s", "modules"):
        table.add_column(column, justify="right")
    for command in COMMANDS:
        # The bridge needs more than a worker's install has.
        script = (scripts if command == "edge-bridge" else worker.python.parent) / command
        home = folder / "home"
        seconds_s = statistics.median(help_cpu_s(script, home) for _ in range(ROUNDS))
        table.add_row(command, f"{seconds_s:.2f}", str(help_modules(script, home)))
    console.print(table)
    site = Site(folder, scripts=scripts, worker_scripts=worker.python.parent)
    table = Table(title=f"at rest for {seconds:g} s")
    for column in ("", "ready, s", "CPU until then, s", "PSS, MB", "CPU per 120 s, s", "wakeups per minute"):
        table.add_column(column, justify="right")
    for each in site.at_rest(seconds):
        table.add_row(
            each.name,
            f"{each.ready_s:.2f}" if each.ready_s else "",
            f"{each.ready_cpu_s:.2f}" if each.ready_s else "",
            f"{each.memory_mb:.1f}",
            f"{each.use.cpu_s * 120 / seconds:.3f}",
            f"{each.use.wakeups * 60 / seconds:.0f}",
        )
    console.print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all of them")
    parser.add_argument("--venv", type=Path, help="a worker's install that is there; default: a fresh one")
    parser.add_argument("--seconds", type=float, default=60.0, help="to watch at rest (default: %(default)s)")
    parser.add_argument(
        "--memory", type=float, nargs="*", default=[0, 320, 256, 192], help="MB of the boards; 0: no limit"
    )
    options = parser.parse_args()
    parts = options.parts or PARTS
    console = Console(width=160)
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="edge-weight-") as made:
        folder = Path(made)
        if "install" in parts:
            installs(console, folder)
        if "extras" in parts:
            extras(console, folder)
        if options.venv is not None:
            worker = weighed(options.venv)
        elif (folder / "edge-mqtt").exists():
            worker = weighed(folder / "edge-mqtt")
        else:
            worker = install(folder / "edge-mqtt", INSTALLS["edge-mqtt"])
        if "rest" in parts:
            rest(console, folder, worker, options.seconds)
        if "board" in parts:
            run_on_board(console, folder, worker, options.memory)


if __name__ == "__main__":
    main()
