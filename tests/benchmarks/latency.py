"""From Airflow's queue to the first line of user code, stage by stage, and from a printed line to its readers.

Runs a whole system on this machine, one task at a time on an idle worker, and prints two tables.
"""

from __future__ import annotations

import argparse
import platform
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deploy.quickstart.stack import Stack, WorkerSpec
from tests.e2e.checks import log_path
from tests.e2e.edge_logs import edge_logs_command

DAGS = Path(__file__).parent / "dags"
STAGES = (
    ("queued in Airflow's database", "submitted by the executor (Airflow's own loop)"),
    ("submitted by the executor", "assigned by the bridge"),
    ("assigned by the bridge", "supervisor started on the worker"),
    ("supervisor started on the worker", "start recorded (run call)"),
    ("start recorded (run call)", "first line of user code"),
)
_NOW = re.compile(r"now (\d+\.\d+)")


def logged_at(text: str, pattern: str) -> float:
    """Return the time of the last line that matches, in Unix seconds.

    :raises LookupError: no line does.
    """
    line = next((line for line in reversed(text.splitlines()) if re.search(pattern, line)), None)
    if line is None:
        raise LookupError(f"no line matches {pattern!r}")
    stamp = re.match(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)[.,](\d+)(Z?)", line)
    if stamp is None:
        raise LookupError(f"no time in {line!r}")
    date, clock, fraction, zone = stamp.groups()
    moment = datetime.fromisoformat(f"{date}T{clock}.{fraction:0<6.6}{'+00:00' if zone else ''}")
    return moment.timestamp()


def one_task(stack: Stack) -> list[float]:
    """Run one task; return the Unix time of each stage's beginning and of the last one's end."""
    run_id = stack.trigger("bench_first_line")
    if stack.wait_run("bench_first_line", run_id) != "success":
        raise RuntimeError(f"{run_id} failed")
    (instance,) = stack.task_instances("bench_first_line", run_id)
    path = f"/dags/bench_first_line/dagRuns/{run_id}/taskInstances/first_line/xcomEntries/return_value"
    scheduler = stack.log_of("scheduler")
    (job_id,) = re.findall(rf"job (\S+) submitted .*{re.escape(run_id)}", scheduler)
    bridge = stack.log_of("bridge")
    return [
        datetime.fromisoformat(instance["queued_when"]).timestamp(),
        logged_at(scheduler, f"job {job_id} submitted"),
        logged_at(bridge, f"job assigned .*{job_id}"),
        logged_at(stack.log_of("worker-edge-1"), rf"{re.escape(run_id)} .*started"),
        logged_at(bridge, f"job started .*{job_id}"),
        float(stack.rest("GET", path)["value"]),
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values lie."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def print_table(console: Console, title: str, rows: dict[str, list[float]]) -> None:
    """Print median, 95th percentile and maximum of each row, given in seconds."""
    table = Table(title=title)
    table.add_column("")
    for name in ("median", "p95", "max"):
        table.add_column(f"{name}, ms", justify="right")
    for name, values in rows.items():
        figures = (statistics.median(values), percentile(values, 0.95), max(values))
        table.add_row(name, *(f"{value * 1000:.1f}" for value in figures))
    console.print(table)


def follow_file(file: Path, over: threading.Event) -> Iterator[bytes]:
    """Yield what is added to a file, at most a millisecond later."""
    position = 0
    while not over.is_set():
        if file.exists() and file.stat().st_size > position:
            with file.open("rb") as stream:
                stream.seek(position)
                data = stream.read()
            position += len(data)
            yield data
        else:
            time.sleep(0.001)


@contextmanager
def recording(chunks: Callable[[], Iterator[bytes]], delays: list[float]) -> Iterator[None]:
    """Note in a thread how old each printed time is when it is read."""

    def record() -> None:
        for chunk in chunks():
            now = time.time()
            delays.extend(now - float(stamp) for stamp in _NOW.findall(chunk.decode()))

    thread = threading.Thread(target=record, name="reader")
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


def live_lines(stack: Stack) -> dict[str, list[float]]:
    """Run a talkative task; return how late its lines came to each kind of reader."""
    run_id = stack.trigger("bench_live_lines")
    instance = {"dag_id": "bench_live_lines", "dag_run_id": run_id, "task_id": "talk", "map_index": -1}
    file = stack.central_home / "logs" / log_path(instance, 1)
    stack.wait_until(file.exists, "the log's first line")
    over = threading.Event()
    delays: dict[str, list[float]] = {"file at the centre": [], "edge-logs -f": []}
    command = edge_logs_command(stack, "bench_live_lines", "--run-id", run_id, "-f", "--output", "raw")
    environment = stack.environment(stack.directory)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as tail:
        lines = tail.stdout
        if lines is None:
            raise RuntimeError("edge-logs has no output")
        with (
            recording(lambda: follow_file(file, over), delays["file at the centre"]),
            recording(lambda: iter(lines.readline, b""), delays["edge-logs -f"]),
        ):
            stack.wait_run("bench_live_lines", run_id)
            tail.wait(30)
            over.set()
    # What was printed before the readers were there is not what is measured.
    return {name: values[-60:] for name, values in delays.items()}


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=20, help="tasks to measure (default: %(default)s)")
    tasks = parser.parse_args().tasks
    console = Console()
    console.print(f"{platform.platform()}, Python {platform.python_version()}, {tasks} tasks one after another")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Stack(Path(folder) / "s", dags=DAGS, workers=[WorkerSpec(name="edge-1")]) as stack,
    ):
        for dag_id in ("bench_first_line", "bench_live_lines"):
            stack.wait_for_dag(dag_id)
        one_task(stack)  # the first one warms everything up
        runs = [one_task(stack) for _ in range(tasks)]
        rows = {
            f"{start} → {end}": [run[index + 1] - run[index] for run in runs]
            for index, (start, end) in enumerate(STAGES)
        }
        rows["submitted → supervisor started"] = [run[3] - run[1] for run in runs]
        rows["submitted → first line"] = [run[5] - run[1] for run in runs]
        print_table(console, "One no-op task on an idle worker", rows)
        print_table(console, "From a printed line to its reader", live_lines(stack))


if __name__ == "__main__":
    main()
