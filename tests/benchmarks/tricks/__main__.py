"""What each of the worker's tricks earns: a real worker with all of them, and without each in turn.

    python -m tests.benchmarks.tricks [--rounds 5] [--tasks 40] [--only warm_up …]

A worker with all tricks and one without the trick in question are up at the same time and run tasks in turn, a few
each, so that both meet the same disturbances; what one has more than the other is counted within the pair. Memory is
by shares (PSS), and the two share the files that they map. "control" has all tricks on both sides: what it shows is
noise. A trick stays if it earns at least 3 % of a task's CPU or of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.tricks.pair import certificates, measure_pair

#: What is switched off in the other worker of a pair.
KINDS: Final[Mapping[str, Sequence[str]]] = {
    "control": (),
    "warm_up": ("warm_up",),
    "large_pages": ("large_pages",),
    "logging_shortcut": ("logging_shortcut",),
    "hidden_modules": ("hidden_modules",),
    "hidden_modules: rich": ("hidden_modules: rich",),
    "hidden_modules: dns": ("hidden_modules: dns",),
    "all of them": ("warm_up", "large_pages", "logging_shortcut", "hidden_modules"),
}
COLUMNS: Final[Mapping[str, str]] = {
    "task_cpu_ms": "CPU a task, ms",
    "start_cpu_ms": "CPU of the start, ms",
    "fresh_mb": "PSS before a task, MB",
    "idle_mb": "PSS idle, MB",
    "slot_mb": "PSS a busy slot, MB",
    "busy_mb": "PSS with 16 busy, MB",
}
#: A trick stays for one of these; what the start costs is paid once.
COUNTED: Final = ("task_cpu_ms", "idle_mb", "busy_mb")
WORTH_PERCENT: Final = 3.0

#: A worker's figures by name.
Values = Mapping[str, float]
#: Those of the worker with all tricks, and of the other.
Pair = tuple[Values, Values]


def earned(pair: Pair, key: str) -> float:
    """Return how many percent more the worker without the trick took."""
    having, without = pair
    return (without[key] / having[key] - 1) * 100


def verdict(earnings: Mapping[str, Sequence[float]]) -> str:
    """Return what becomes of a trick that has earned so much in each round, by figure."""
    middle = {key: statistics.median(earnings[key]) for key in COUNTED}
    return "stays" if max(middle.values()) >= WORTH_PERCENT else "goes"


def spread(values: Sequence[float]) -> str:
    """Return median, least and most."""
    return f"{statistics.median(values):+.1f} ({min(values):+.1f} … {max(values):+.1f})"


def show(console: Console, results: Mapping[str, Sequence[Pair]]) -> None:
    """Print all medians, and what each trick has earned.

    :param results: by what was switched off.
    """
    table = Table(title="medians")
    for column in ("without", *COLUMNS.values()):
        table.add_column(column, justify="right")
    rows = {"(nothing)": [having for pairs in results.values() for having, _ in pairs]}
    rows |= {kind: [without for _, without in pairs] for kind, pairs in results.items()}
    for kind, values in rows.items():
        table.add_row(kind, *(f"{statistics.median(each[key] for each in values):.1f}" for key in COLUMNS))
    console.print(table)
    table = Table(title="more without it, %: median (least … most)")
    for column in ("without", *COLUMNS.values(), "verdict"):
        table.add_column(column, justify="right")
    for kind, pairs in results.items():
        more = {key: [earned(pair, key) for pair in pairs] for key in COLUMNS}
        judged = "" if kind in ("control", "all of them") else verdict(more)
        table.add_row(kind, *(spread(values) for values in more.values()), judged)
    console.print(table)


async def measure(rounds: int, tasks: int, kinds: Sequence[str]) -> dict[str, list[Pair]]:
    """Return the pairs by what the other worker was without."""
    results: dict[str, list[Pair]] = {kind: [] for kind in kinds}
    with TemporaryDirectory(prefix="edge-tricks-") as folder:
        store = certificates(Path(folder) / "certs")
        for number in range(rounds):
            for kind in kinds:
                # Who starts first meets the colder machine.
                offs = ((), KINDS[kind])[:: 1 if number % 2 else -1]
                first, second = (asdict(each) for each in await measure_pair(store, offs, tasks))
                results[kind].append((first, second) if number % 2 else (second, first))
                print(f"{datetime.now(UTC):%H:%M:%S}", kind, json.dumps(results[kind][-1]), flush=True)
    return results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="pairs for each trick (default: %(default)s)")
    parser.add_argument("--tasks", type=int, default=40, help="tasks of each worker (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="TRICK", help="these only")
    parser.add_argument("--json", type=Path, help="keep the raw figures here")
    options = parser.parse_args()
    console = Console(width=200)
    console.print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    results = asyncio.run(measure(options.rounds, options.tasks, options.only))
    if options.json:
        options.json.write_text(json.dumps(results))
    show(console, results)


if __name__ == "__main__":
    main()
