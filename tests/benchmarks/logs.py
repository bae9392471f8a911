"""How fast task logs reach the centre, what that costs, and what it takes on the wire.

A real bridge and a real worker, each a process of its own; the jobs are callbacks, so that no Airflow is needed. One
task prints: its lines go the whole way, through Airflow's supervisor into the worker's file, over WSS, onto the
bridge's disk, to edge-logs. Where there are many lines the tasks write them into the worker's files themselves, as
Airflow's supervisor would: it is not what is measured.
"""

from __future__ import annotations

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, WorkloadType
from edge_mqtt.certs.identity import Identity, Role
from tests.benchmarks import log_neighbour
from tests.benchmarks.figures import percentile
from tests.support.scenario_bad_links import QUEUE, BadLinkSite, WorkerProcess, log_path

DAG_FILE = """
import base64
import os
import time
from pathlib import Path

LINE = (
    '{"timestamp":"2026-03-04T05:06:%02d.%06dZ","level":"info","event":"sensor %d of press %d reads %.3f bar%s",'
    '"logger":"task.stdout","filename":"press.py","lineno":17}\\n'
)

def prints(count, per_s, **_context):
    for number in in_time(count, per_s):
        print(f"line {number} of the benchmark, written at {time.time():.6f} with a text of usual length")

def writes(file, count, per_s, **_context):
    with Path(file).open("ab", buffering=0) as log:
        for n in in_time(count, per_s):
            stamp = f", written at {time.time():.6f}"
            log.write((LINE % (n % 60, n * 7919 % 10**6, n % 97, n % 11, n * 0.37, stamp)).encode())

def flood(file, megabytes, **_context):
    print(f"line of the flood, written at {time.time():.6f}")
    block = "".join(LINE % (n % 60, n * 7919 % 10**6, n % 97, n % 11, n * 0.37, "") for n in range(6500)).encode()
    with Path(file).open("ab") as log:
        for _ in range(round(megabytes * 1e6 / len(block))):
            log.write(block)

def scramble(file, megabytes, **_context):
    with Path(file).open("ab") as log:
        for _ in range(megabytes):
            log.write(b'{"event":"' + base64.b64encode(os.urandom(735_000)) + b'"}\\n')

def in_time(count, per_s):
    begun = time.monotonic()
    for number in range(count):
        time.sleep(max(0.0, begun + number / per_s - time.monotonic()))
        yield number
"""
OPERATOR = Identity(Role.OPERATOR, "reader")
_WRITTEN = re.compile(rb"written at (\d+\.\d+)")
#: Tasks that print much at once, and lines that the quiet one prints beside the flood, five a second.
TASKS = 10
QUIET_LINES = 60
#: Seconds between looks at the centre's files: what the figures may be too high by.
LOOK_S = 0.002
PATIENCE_S = 300.0


@dataclass
class Figures:
    """What was measured of one load."""

    name: str
    log_bytes: int = 0
    wall_s: float = 0.0
    bridge_cpu_s: float = 0.0
    worker_cpu_s: float = 0.0
    #: Bytes on the wire, TLS included.
    up: int = 0
    down: int = 0
    #: Seconds from printing each line to reading it.
    at_centre: list[float] = field(default_factory=list)
    at_reader: list[float] = field(default_factory=list)

    def row(self) -> list[str]:
        """Return the costs, in the order of the table."""
        return [
            f"{self.log_bytes / 1e3:.0f}",
            f"{self.wall_s:.1f}",
            f"{self.log_bytes / 1e6 / self.wall_s:.2f}",
            f"{self.bridge_cpu_s:.2f}",
            f"{self.worker_cpu_s:.2f}",
            f"{self.up / 1e3:.1f}",
            f"{self.down / 1e3:.1f}",
            f"{(self.up + self.down) / self.log_bytes:.3f}",
        ]


class LogSite:
    """The site, with callbacks that log."""

    def __init__(self, folder: Path, *, bridge_options: Sequence[str] = ()) -> None:
        self.site = BadLinkSite(folder, bridge_options=bridge_options)
        self.site.store.issue(OPERATOR, force=False, now=datetime.now(UTC))
        self._link = self.site.links["worker"]
        self.worker: WorkerProcess = self.site.start_worker("machine", concurrency=TASKS)
        (folder / "machine" / "dags" / "bench_logs.py").write_text(DAG_FILE)
        self.worker.wait_line("connected to")
        command = [
            *(sys.executable, "-m", "edge_mqtt.broker_bridge.edge_logs", "--all", "-f", "--output", "raw"),
            *("--bridge", self.site.bridge_url, "--certs", str(self.site.store.folder(OPERATOR))),
        ]
        self._edge_logs = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.read_delays: list[float] = []
        self._reading = threading.Thread(target=self._read, name="edge-logs")
        self._reading.start()
        self._processes = [psutil.Process(self.site.bridge_pid), psutil.Process(self.worker.process.pid)]

    def submit(self, function: str, job_id: JobId | None = None, **arguments: object) -> JobId:
        """Hand over one callback."""
        job_id = job_id or new_id()
        workload = {
            "type": "ExecuteCallback",
            "callback": {
                "id": job_id,
                "fetch_method": "import_path",
                "data": {"path": f"bench_logs.{function}", "kwargs": {**arguments, "context": {}}},
            },
            "bundle_info": {"name": "dags-folder", "version": None},
            "dag_rel_path": "bench_logs.py",
        }
        job = JobSpec(
            job_id=job_id, type=WorkloadType.CALLBACK, queue=QUEUE, log_path=log_path(job_id), workload=workload
        )
        self.site.link.submit(job, "token")
        return job_id

    def central(self, job_id: JobId) -> Path:
        """Return the job's file at the centre."""
        return self.site.folder / "centre" / "logs" / log_path(job_id)

    def edge(self, job_id: JobId) -> Path:
        """Return the job's file on the worker."""
        return self.worker.logs / log_path(job_id)

    @contextmanager
    def costs(self, figures: Figures) -> Iterator[None]:
        """Measure what happens meanwhile; the supervisors' own CPU is not counted."""
        bridge, worker = map(cpu_s, self._processes)
        up, down, began = self._link.bytes_up, self._link.bytes_down, time.monotonic()
        yield
        figures.wall_s = time.monotonic() - began
        bridge_now, worker_now = map(cpu_s, self._processes)
        figures.bridge_cpu_s, figures.worker_cpu_s = bridge_now - bridge, worker_now - worker
        figures.up, figures.down = self._link.bytes_up - up, self._link.bytes_down - down

    def _read(self) -> None:
        """Note how old lines are when edge-logs prints them."""
        for line in self._edge_logs.stdout or ():
            self.read_delays.extend(time.time() - float(stamp) for stamp in _WRITTEN.findall(line))

    def printed(self, count: int) -> Figures:
        """Run a task that prints, a line a second."""
        return self._lines("1 x 1 lines/s, printed", [self.submit("prints", count=count, per_s=1)], count)

    def written(self, tasks: int, count: int, per_s: float) -> Figures:
        """Run tasks that write lines."""
        jobs = [new_id() for _ in range(tasks)]
        for job in jobs:
            self.submit("writes", job, file=str(self.edge(job)), count=count, per_s=per_s)
        return self._lines(f"{tasks} x {per_s:g} lines/s", jobs, tasks * count)

    def _lines(self, name: str, jobs: Sequence[JobId], lines: int) -> Figures:
        figures = Figures(name)
        self.read_delays.clear()
        with self.costs(figures):
            self.follow(jobs, figures.at_centre, lines)
            self.site.wait_ended(jobs)
            wait(lambda: len(self.read_delays) >= lines)
        figures.at_reader = list(self.read_delays)
        figures.log_bytes = sum(self.central(job).stat().st_size for job in jobs)
        return figures

    def close(self) -> None:
        """End everything."""
        self._edge_logs.terminate()
        self._reading.join()
        if self._edge_logs.stdout is not None:
            self._edge_logs.stdout.close()
        self._edge_logs.wait()
        self.site.close()

    def flood(self, megabytes: int) -> Figures:
        """Run a task that writes much at once, and beside it a quiet one, whose delays are what is noted."""
        lines = QUIET_LINES
        figures = Figures(f"{megabytes} MB at once, beside 1 x 5 lines/s")
        loud = new_id()
        with self.costs(figures):
            quiet = self.submit("prints", count=lines, per_s=5)
            self.submit("flood", loud, file=str(self.edge(loud)), megabytes=megabytes)
            self.follow([quiet], figures.at_centre, lines)
            self.site.wait_ended([quiet, loud])
            edge, central = self.edge(loud), self.central(loud)
            wait(lambda: central.exists() and central.stat().st_size == edge.stat().st_size)
        figures.log_bytes = central.stat().st_size
        figures.wall_s = central.stat().st_mtime - begin(edge)
        return figures

    def follow(self, jobs: Sequence[JobId], delays: list[float], lines: int) -> None:
        """Read the jobs' files at the centre until so many lines have come."""
        positions = dict.fromkeys(map(self.central, jobs), 0)
        rest = dict.fromkeys(positions, b"")
        deadline = time.monotonic() + PATIENCE_S
        while len(delays) < lines:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(delays)} of {lines} lines have come")
            self.site.look()
            for file, position in positions.items():
                if file.exists() and file.stat().st_size > position:
                    now = time.time()
                    with file.open("rb") as stream:
                        stream.seek(position)
                        data = stream.read()
                    positions[file] += len(data)
                    *whole, rest[file] = (rest[file] + data).split(b"\n")
                    delays.extend(now - float(stamp) for line in whole for stamp in _WRITTEN.findall(line))
            time.sleep(LOOK_S)


def begin(file: Path) -> float:
    """Return the Unix time that the first line has of itself.

    :raises LookupError: there is none.
    """
    with file.open("rb") as lines:
        found = next(stamp for line in lines for stamp in _WRITTEN.findall(line))
    return float(found)


def cpu_s(process: psutil.Process) -> float:
    """Return the seconds of CPU that a process has used."""
    times = process.cpu_times()
    return float(times.user + times.system)


def new_id() -> JobId:
    """Return a job id."""
    return JobId(str(uuid.uuid4()))


def wait(condition: Callable[[], bool]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(LOOK_S)


def print_tables(console: Console, results: Sequence[Figures]) -> None:
    """Print what was measured."""
    table = Table(title="From a printed line to its reader, ms")
    for name in ("", "lines", "centre: median", "p95", "max", "edge-logs: median", "p95"):
        table.add_column(name, justify="right")
    for result in results:
        row = [result.name, str(len(result.at_centre))]
        for values, shares in ((result.at_centre, (0.5, 0.95, 1.0)), (result.at_reader, (0.5, 0.95))):
            row += [f"{percentile(values, share) * 1000:.0f}" if values else "-" for share in shares]
        table.add_row(*row)
    console.print(table)
    table = Table(title="What it takes")
    names = ("", "log, KB", "s", "MB/s", "bridge CPU, s", "worker CPU, s", "up, KB", "down, KB", "wire/log")
    for name in names:
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(result.name, *result.row())
    console.print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=30, help="size of the flood (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=15, help="of each task that prints (default: %(default)s)")
    arguments = parser.parse_args()
    console = Console(width=140)
    console.print(f"{platform.platform()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        site = LogSite(Path(folder))
        try:
            site.printed(2)  # the first one warms everything up
            results = [
                site.printed(arguments.seconds),
                site.written(TASKS, 100 * arguments.seconds, 100),
                site.flood(arguments.megabytes),
            ]
            beside = log_neighbour.measure(site, arguments.megabytes)
        finally:
            site.close()
    print_tables(console, results)
    log_neighbour.print_table(console, beside)


if __name__ == "__main__":
    main()
