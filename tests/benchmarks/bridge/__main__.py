"""The bridge alone: throughput, latency, memory and reconnect storms with up to thousands of simulated workers.

Starts a real edge-bridge (SQLite ledger, synced to disk) and connects workers over real WSS, each with a certificate
of its own. They run nothing. ``python -m tests.benchmarks.bridge --workers 10,2000``
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console

from tests.benchmarks.bridge.certificates import Parties
from tests.benchmarks.bridge.fleet import Fleet
from tests.benchmarks.bridge.process import BridgeProcess, Usage
from tests.benchmarks.bridge.report import machine, plot, print_tables

#: Connections that are there before the memory of the others is counted: what is only loaded at the first.
FIRST = 10


#: Median, 95th and 99th percentile, in seconds.
Spread = tuple[float, float, float]


@dataclass(kw_only=True, slots=True)
class Figures:
    """What was measured with some number of workers; times in seconds, sizes in bytes."""

    workers: int
    jobs: int
    jobs_per_s: float = 0.0
    bridge_cpu_per_job_s: float = 0.0
    bridge_cpu_share: float = 0.0
    load_cpu_share: float = 0.0
    #: From submission to arrival at the worker, from acceptance to there, from submission to the final event; with
    #: many jobs and with one at a time.
    busy_assigned_s: Spread = (0.0, 0.0, 0.0)
    busy_begun_s: Spread = (0.0, 0.0, 0.0)
    busy_finished_s: Spread = (0.0, 0.0, 0.0)
    calm_assigned_s: Spread = (0.0, 0.0, 0.0)
    calm_begun_s: Spread = (0.0, 0.0, 0.0)
    calm_finished_s: Spread = (0.0, 0.0, 0.0)
    set_up_s: float = 0.0
    set_up_cpu_s: float = 0.0
    pss: int = 0
    bytes_per_connection: float = 0.0
    idle_seconds: float = 0.0
    idle_cpu_s: float = 0.0
    storm_s: float = 0.0
    storm_cpu_s: float = 0.0
    storm_finish_s: float = 0.0


def spread(values: Sequence[float]) -> Spread:
    """Return median, 95th and 99th percentile."""
    ordered = sorted(values)
    last = len(ordered) - 1
    return statistics.median(ordered), ordered[int(last * 0.95)], ordered[int(last * 0.99)]


def latencies(fleet: Fleet, jobs: Sequence[bytes]) -> tuple[Spread, Spread, Spread]:
    """Return how long jobs took to their worker, from their acceptance to there, and to their end."""
    began, executor = fleet.executor.submitted_at, fleet.executor
    return (
        spread([fleet.assigned_at[job] - began[job] for job in jobs]),
        spread([fleet.assigned_at[job] - executor.accepted_at[job] for job in jobs]),
        spread([executor.finished_at[job] - began[job] for job in jobs]),
    )


def run_jobs(fleet: Fleet, count: int, *, outstanding: int) -> list[bytes]:
    """Have jobs run, so many at a time; return them."""
    executor = fleet.executor
    before = len(executor.finished_at)
    first = min(count, outstanding)
    executor.left = count - first
    known = len(executor.submitted_at)
    for _ in range(first):
        executor.submit()
    fleet.run_until(lambda: len(executor.finished_at) - before >= count, f"the end of {count} jobs")
    jobs = list(executor.submitted_at)[known:]
    fleet.run_until(lambda: fleet.logs_stored.issuperset(jobs), "their logs")
    return jobs


def set_up(bridge: BridgeProcess, fleet: Fleet, figures: Figures) -> None:
    """Connect everybody, and count what connections cost."""
    fleet.executor.connect()
    fleet.run_until(lambda: fleet.executor.welcomed, "the executor's connection")
    fleet.grow(min(FIRST, figures.workers))
    fleet.connect(fleet.workers)
    run_jobs(fleet, 200, outstanding=50)
    fleet.run_for(1)
    before, pss = bridge.usage(), bridge.pss()
    fleet.grow(figures.workers)
    new = fleet.workers[FIRST:]
    if new:
        fleet.connect(new)
        used = bridge.usage() - before
        figures.set_up_s, figures.set_up_cpu_s = used.wall_s, used.bridge_cpu_s
        fleet.run_for(2)
        figures.bytes_per_connection = (bridge.pss() - pss) / len(new)
    figures.pss = bridge.pss()


def measure_idle(bridge: BridgeProcess, fleet: Fleet, figures: Figures, seconds: float) -> None:
    """Let everybody sit there and send nothing but pings."""
    before = bridge.usage()
    fleet.run_for(seconds)
    used = bridge.usage() - before
    figures.idle_seconds, figures.idle_cpu_s = used.wall_s, used.bridge_cpu_s


def measure_jobs(bridge: BridgeProcess, fleet: Fleet, figures: Figures, outstanding: int) -> None:
    """Have jobs run, many at a time and then one at a time."""
    before: Usage = bridge.usage()
    jobs = run_jobs(fleet, figures.jobs, outstanding=outstanding)
    used = bridge.usage() - before
    figures.jobs_per_s = len(jobs) / used.wall_s
    figures.bridge_cpu_per_job_s = used.bridge_cpu_s / len(jobs)
    figures.bridge_cpu_share = used.bridge_cpu_s / used.wall_s
    figures.load_cpu_share = used.load_cpu_s / used.wall_s
    busy, calm = latencies(fleet, jobs), latencies(fleet, run_jobs(fleet, 200, outstanding=1))
    figures.busy_assigned_s, figures.busy_begun_s, figures.busy_finished_s = busy
    figures.calm_assigned_s, figures.calm_begun_s, figures.calm_finished_s = calm


def measure_storm(bridge: BridgeProcess, fleet: Fleet, figures: Figures) -> None:
    """Cut every connection while each worker runs a job; wait until all are back, then let the jobs end."""
    executor = fleet.executor
    fleet.hold = True
    held = [executor.submit() for _ in fleet.workers]
    wanted = len(held)
    fleet.run_until(lambda: sum(len(worker.running) for worker in fleet.workers) >= wanted, "every job's start")
    before = bridge.usage()
    fleet.cut()
    fleet.connect(fleet.workers, at_once=figures.workers)
    used = bridge.usage() - before
    figures.storm_s, figures.storm_cpu_s = used.wall_s, used.bridge_cpu_s
    fleet.hold = False
    for worker in fleet.workers:
        for job in list(worker.running):
            worker.finish(job)
    fleet.run_until(lambda: all(job in executor.finished_at for job in held), "every job's end")
    figures.storm_finish_s = (bridge.usage() - before).wall_s


def measure(workers: int, arguments: argparse.Namespace, parties: Parties) -> Figures:
    """Measure a new bridge with so many workers."""
    figures = Figures(workers=workers, jobs=arguments.jobs)
    folder = Path(tempfile.mkdtemp(prefix="bridge-benchmark-", dir=arguments.folder or arguments.cache))
    bridge = BridgeProcess(folder, parties.bridge_folder, tuple(arguments.wrapper.split()))
    fleet = Fleet(parties, bridge.port)
    # Thousands of contexts and connections make a collection slow, and nothing here is garbage.
    gc.disable()
    try:
        set_up(bridge, fleet, figures)
        if arguments.idle_seconds:
            measure_idle(bridge, fleet, figures, arguments.idle_seconds)
        measure_jobs(bridge, fleet, figures, arguments.outstanding)
        if not arguments.no_storm:
            measure_storm(bridge, fleet, figures)
        if fleet.executor.failed or fleet.refused_starts:
            raise RuntimeError(f"{fleet.executor.failed} jobs failed, {fleet.refused_starts} may not start")
    finally:
        gc.enable()
        fleet.close()
        bridge.close()
        if arguments.keep:
            print(folder)
        else:
            shutil.rmtree(folder)
    return figures


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="10,200,1000,2000", help="numbers of workers, one run each")
    parser.add_argument("--jobs", type=int, default=3000, help="jobs of each run")
    parser.add_argument("--outstanding", type=int, default=128, help="jobs that are submitted and have not ended")
    parser.add_argument("--idle-seconds", type=float, default=60.0, help="0 for no idle time")
    parser.add_argument("--no-storm", action="store_true", help="without cutting every connection")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "edge-mqtt-bridge-benchmark")
    parser.add_argument("--folder", type=Path, help="where ledger and logs are put, instead of the cache's folder")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--plots", type=Path, help="write plots into this folder (needs matplotlib)")
    parser.add_argument("--wrapper", default="", help="command that runs the bridge's Python, such as a profiler")
    parser.add_argument("--keep", action="store_true", help="keep the bridge's files")
    arguments = parser.parse_args()
    arguments.cache.mkdir(parents=True, exist_ok=True)
    parties = Parties(arguments.cache)
    runs = [measure(int(workers), arguments, parties) for workers in arguments.workers.split(",")]
    rows = [asdict(run) for run in runs]
    print_tables(Console(), rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "runs": rows}, indent=1) + "\n")
    if arguments.plots:
        plot(rows, arguments.plots)


if __name__ == "__main__":
    main()
