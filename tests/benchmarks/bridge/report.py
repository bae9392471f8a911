"""What the benchmark of the bridge prints and draws."""

from __future__ import annotations

import os
import platform
import ssl
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

Row = Mapping[str, Any]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f}"


def _spread(name: str) -> Callable[[Row], str]:
    return lambda row: " / ".join(_ms(value) for value in row[name])


_LINES: Sequence[tuple[str, Callable[[Row], str]]] = (
    ("jobs/s, accepted, dispatched, finished, with their logs, on disk", lambda row: f"{row['jobs_per_s']:.0f}"),
    ("bridge CPU a job, ms", lambda row: _ms(row["bridge_cpu_per_job_s"])),
    ("CPU share: bridge", lambda row: f"{row['bridge_cpu_share']:.0%}"),
    ("CPU share: load", lambda row: f"{row['load_cpu_share']:.0%}"),
    ("submitted → at the worker, busy, ms (median / p95 / p99)", _spread("busy_assigned_s")),
    ("accepted → at the worker, busy, ms", _spread("busy_begun_s")),
    ("submitted → finished, busy, ms", _spread("busy_finished_s")),
    ("submitted → at the worker, one at a time, ms", _spread("calm_assigned_s")),
    ("accepted → at the worker, one at a time, ms", _spread("calm_begun_s")),
    ("submitted → finished, one at a time, ms", _spread("calm_finished_s")),
    ("connecting: s", lambda row: f"{row['set_up_s']:.1f}"),
    ("connecting: bridge CPU a connection, ms", lambda row: _ms(row["set_up_cpu_s"] / max(1, row["workers"] - 10))),
    ("bridge PSS, MB", lambda row: f"{row['pss'] / 1e6:.0f}"),
    ("memory of an idle connection, KB", lambda row: f"{row['bytes_per_connection'] / 1000:.1f}"),
    ("idle: bridge CPU, s a minute", lambda row: f"{60 * row['idle_cpu_s'] / (row['idle_seconds'] or 1):.2f}"),
    ("storm: all back and welcome, s", lambda row: f"{row['storm_s']:.1f}"),
    ("storm: bridge CPU, s", lambda row: f"{row['storm_cpu_s']:.1f}"),
    ("storm: their jobs ended, s", lambda row: f"{row['storm_finish_s']:.1f}"),
)


def machine() -> dict[str, str]:
    """Return where and with what this was measured."""
    return {
        "system": f"{platform.system()} {platform.release()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        **{name: version(name) for name in ("airflow-edge-mqtt", "amqtt", "websockets", "pydantic", "SQLAlchemy")},
    }


def print_tables(console: Console, rows: Sequence[Row]) -> None:
    """Print the figures of every run, and their ratio."""
    console.print(", ".join(f"{name} {value}" for name, value in machine().items()))
    table = Table(title="The bridge alone")
    table.add_column("workers")
    for row in rows:
        table.add_column(f"{row['workers']:,}", justify="right")
    for name, show in _LINES:
        table.add_row(name, *(show(row) for row in rows))
    console.print(table)
    if len(rows) > 1:
        first, last = rows[0], rows[-1]
        ratio = last["jobs_per_s"] / first["jobs_per_s"]
        console.print(f"jobs/s with {last['workers']:,} workers ÷ with {first['workers']:,}: {ratio:.2f}")


def plot(rows: Sequence[Row], folder: Path) -> None:
    """Draw throughput and memory over the number of workers, as PNG and SVG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    workers = [row["workers"] for row in rows]
    figure, (speed, memory) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    speed.plot(workers, [row["jobs_per_s"] for row in rows], marker="o")
    speed.set(title="Jobs a second, durable", xlabel="connected workers", ylim=(0, None))
    memory.plot(workers, [row["pss"] / 1e6 for row in rows], marker="o")
    memory.set(title="Bridge memory (PSS), MB", xlabel="connected workers", ylim=(0, None))
    for ending in ("png", "svg"):
        figure.savefig(folder / f"bridge.{ending}", dpi=150)
    plt.close(figure)
