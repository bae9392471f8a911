"""The figures as pictures, each as SVG and PNG."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
from matplotlib.figure import Figure

from tests.benchmarks.executors.report import stage_lengths
from tests.benchmarks.executors.summary import (
    BYTES,
    BYTES_IDLE,
    CPU_MAPPED,
    LINE_MEDIAN,
    PSS_FULL,
    PSS_IDLE,
    QUEUED_TO_START,
    TASKS_PER_S,
    Metric,
    Raw,
)
from tests.benchmarks.executors.waterfall import STAGES

_OURS: Final = "ours"
_COLOURS: Final = {"ours": "#0072b2", "Celery + Redis": "#e69f00", "LocalExecutor": "#999999", "edge3": "#cc79a7"}
_STAGE_COLOURS: Final = ("#bbbbbb", "#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#cc79a7")
#: Factor between the smallest and the largest bar from which on the scale is logarithmic.
_LOG_FROM: Final = 20.0
#: Characters of one line of a panel's title.
_TITLE_CHARS: Final = 32
_PANELS: Final = (QUEUED_TO_START, TASKS_PER_S, CPU_MAPPED, PSS_FULL, PSS_IDLE, BYTES_IDLE, BYTES, LINE_MEDIAN)
#: The same figures give the same files.
mpl.rcParams.update({"svg.hashsalt": "airflow-edge-mqtt", "svg.fonttype": "none", "font.size": 9.0})
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})


def draw(figures: Mapping[str, Raw], folder: Path) -> list[Path]:
    """Draw what the figures give; return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {"executors": _executors(figures)}
    ours = figures.get(_OURS, {})
    if ours.get("waterfall"):
        drawn["waterfall"] = _waterfall(ours["waterfall"])
    if ours.get("wan") and ours["single"]:
        drawn["wan"] = _wan(ours)
    return [_save(figure, folder / name, suffix) for name, figure in drawn.items() for suffix in ("svg", "png")]


def _save(figure: Figure, path: Path, suffix: str) -> Path:
    file = path.with_suffix(f".{suffix}")
    metadata: dict[str, Any] = {"Date": None} if suffix == "svg" else {"Software": None}
    figure.savefig(file, dpi=110, metadata=metadata)
    return file


def _executors(figures: Mapping[str, Raw]) -> Figure:
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    for place, metric in enumerate(_PANELS, 1):
        _bars(figure.add_subplot(2, 4, place), metric, figures)
    return figure


def _bars(axes: Any, metric: Metric, figures: Mapping[str, Raw]) -> None:
    shown = {name: number for name, raw in figures.items() if (number := metric.of(raw)) is not None}
    values = [number * metric.scale for number in shown.values()]
    bars = axes.bar(list(shown), values, color=[_COLOURS[name] for name in shown])
    axes.bar_label(bars, [f"{value:,.{metric.digits}f}" for value in values], padding=2)
    axes.set_title(textwrap.fill(f"{metric.title}, {metric.unit}".rstrip(", "), _TITLE_CHARS), fontsize=9)
    axes.set_xticks(
        range(len(shown)), [name.replace(" + ", "\n+ ").replace("lE", "l\nE") for name in shown], fontsize=8
    )
    axes.tick_params(axis="x", length=0)
    positive = [value for value in values if value > 0]
    if positive and max(positive) > _LOG_FROM * min(positive):
        axes.set_yscale("log")
    axes.margins(y=0.15)


def _waterfall(waterfall: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    figure = Figure(figsize=(10, 2.6 * len(waterfall)), layout="constrained")
    for place, (where, tasks) in enumerate(waterfall.items(), 1):
        axes = figure.add_subplot(len(waterfall), 1, place)
        begin = 0.0
        for row, length in enumerate(stage_lengths(tasks)):
            axes.barh(row, length * 1000, left=begin * 1000, color=_STAGE_COLOURS[row])
            axes.text((begin + length) * 1000, row, f"  {length * 1000:.1f}", va="center", fontsize=8)
            begin += length
        axes.set_yticks(range(len(STAGES)), STAGES)
        axes.invert_yaxis()
        axes.set_title(f"One task, {where}: milliseconds from its queueing (medians of {len(tasks)})", fontsize=9)
        axes.margins(x=0.08)
    return figure


def _wan(ours: Raw) -> Figure:
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("queued_to_start_s", "queued → start"), ("start_to_end_s", "start → end")):
        points = {0.0: ours["single"], **{float(rtt): tasks for rtt, tasks in ours["wan"].items()}}
        medians = [statistics.median(task[key] for task in tasks) * 1000 for tasks in points.values()]
        axes.plot([rtt * 1000 for rtt in points], medians, marker="o", label=label)
    axes.set_xlabel("round trip time of the worker's link, ms")
    axes.set_ylabel("median of one task, ms")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
