"""The bridge alone: throughput, latency, memory and reconnect storms with up to thousands of simulated workers.

Starts a real edge-bridge (SQLite ledger, synced to disk) for each number of workers, and connects these over real
WSS, each with a certificate of its own. They run nothing. The bridges take turns.
``python -m tests.benchmarks.bridge --workers 10,2000``
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from tests.benchmarks import page
from tests.benchmarks.bridge.certificates import Parties
from tests.benchmarks.bridge.session import Plan, run
from tests.benchmarks.bridge.summary import sheets
from tests.benchmarks.machine import describe

_PACKAGES: Final = ("airflow-edge-mqtt", "amqtt", "websockets", "pydantic", "SQLAlchemy")
_FILE_COLUMNS: Final = 150


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", default="10,100,1000,2000", help="numbers of workers (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=8, help="turns of each number (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=4000, help="jobs of each number, all turns together")
    parser.add_argument("--outstanding", type=int, default=128, help="jobs that are submitted and have not ended")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="0 for no idle time")
    parser.add_argument("--storms", type=int, default=2, help="how often every connection is cut")
    parser.add_argument("--no-storm", dest="storms", action="store_const", const=0, help="the same as --storms 0")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "edge-mqtt-bridge-benchmark")
    parser.add_argument("--folder", type=Path, help="where ledger and logs are put, instead of the cache's folder")
    parser.add_argument("--json", type=Path, help="write the raw figures there")
    parser.add_argument("--from", type=Path, dest="source", help="measure nothing: show the raw figures there")
    parser.add_argument(
        "--write-docs", action="store_true", help="write docs/benchmarks.md and its picture (needs matplotlib)"
    )
    parser.add_argument("--wrapper", default="", help="command that runs the bridge's Python, such as a profiler")
    parser.add_argument("--keep", action="store_true", help="keep the bridges' files")
    return parser.parse_args()


def _measure(console: Console, options: argparse.Namespace) -> dict[str, Any]:
    plan = Plan(
        workers=[int(workers) for workers in options.workers.split(",")],
        rounds=options.rounds,
        jobs=options.jobs // options.rounds,
        outstanding=options.outstanding,
        idle_s=options.idle_seconds,
        storms=options.storms,
    )
    options.cache.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bridge-benchmark-", dir=options.folder or options.cache))
    began = time.monotonic()
    try:
        figures = run(
            plan,
            Parties(options.cache),
            folder,
            tuple(options.wrapper.split()),
            lambda text: console.print(f"[dim]{time.monotonic() - began:6.0f} s[/] {text}"),
        )
    finally:
        if options.keep:
            console.print(f"the bridges' files are in {folder}")
        else:
            shutil.rmtree(folder)
    return {"machine": describe(_PACKAGES), "figures": figures}


def main() -> None:
    """Run the benchmark."""
    options = _options()
    # A file has no width of its own, and the tables are wide.
    console = Console(width=None if sys.stdout.isatty() else _FILE_COLUMNS)
    found = json.loads(options.source.read_text()) if options.source else _measure(console, options)
    found_sheets = sheets(found["figures"])
    page.show(console, found["machine"], found_sheets)
    if options.json:
        options.json.write_text(json.dumps(page.rounded(found), indent=1) + "\n")
    if options.write_docs:
        # Only the environment of `make bench` has what draws.
        from tests.benchmarks.bridge import plots

        plots.draw(found["figures"], page.PICTURES)
        page.write_raw("bridge", found)
        page.write_part("bridge", found["machine"], found_sheets)


if __name__ == "__main__":
    main()
