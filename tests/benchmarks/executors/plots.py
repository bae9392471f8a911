"""The figures as pictures, each as SVG and PNG."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

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
    over_links,
)
from tests.benchmarks.executors.waterfall import STAGES
from tests.benchmarks.metrics import Metric, Raw
from tests.benchmarks.pictures import save

_OURS: Final = "ours"
_COLOURS: Final = {"ours": "#0072b2", "Celery + Redis": "#e69f00", "LocalExecutor": "#999999", "edge3": "#cc79a7"}
_STAGE_COLOURS: Final = ("#bbbbbb", "#0072b2", "#56b4e9", "#009e73", "#f0e442", "#e69f00", "#cc79a7")
#: Factor between the smallest and the largest bar from which on the scale is logarithmic.
_LOG_FROM: Final = 20.0
#: Characters of one line of a panel's title.
_TITLE_CHARS: Final = 32
_PANELS: Final = (QUEUED_TO_START, TASKS_PER_S, CPU_MAPPED, PSS_FULL, PSS_IDLE, BYTES_IDLE, BYTES, LINE_MEDIAN)


def draw(figures: Mapping[str, Raw], folder: Path) -> list[Path]:
    """Draw what the figures give; return the files."""
    drawn = {"executors": _executors(figures)}
    ours = figures.get(_OURS, {})
    if ours.get("waterfall"):
        drawn["waterfall"] = _waterfall(ours["waterfall"])
    if any(ours.get("wan", {}).values()):
        drawn["wan"] = _wan(ours)
    return [file for name, figure in drawn.items() for file in save(figure, folder / name)]


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
    axes.set_xticks(
        range(len(shown)), [name.replace(" + ", "\n+ ").replace("lE", "l\nE") for name in shown], fontsize=8
    )
    axes.tick_params(axis="x", length=0)
    positive = [value for value in values if value > 0]
    title = f"{metric.title}, {metric.unit}".rstrip(", ")
    if positive and max(positive) > _LOG_FROM * min(positive):
        axes.set_yscale("log")
        title += " (logarithmic scale)"
        # Which has no place for it.
        for place in (place for place, value in enumerate(values) if not value):
            axes.text(place, 0.02, "0", transform=axes.get_xaxis_transform(), ha="center")
    axes.set_title(textwrap.fill(title, _TITLE_CHARS), fontsize=9)
    axes.margins(y=0.15)


def _waterfall(waterfall: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    figure = Figure(figsize=(10, 2.6 * len(waterfall)), layout="constrained")
    # One scale for all: the eye compares them.
    panels = figure.subplots(len(waterfall), sharex=True, squeeze=False)[:, 0]
    for axes, (where, tasks) in zip(panels, waterfall.items(), strict=True):
        begin = 0.0
        for row, length in enumerate(stage_lengths(tasks)):
            axes.barh(row, length * 1000, left=begin * 1000, color=_STAGE_COLOURS[row])
            axes.text((begin + length) * 1000, row, f"  {length * 1000:.1f}", va="center", fontsize=8)
            begin += length
        axes.set_yticks(range(len(STAGES)), STAGES)
        axes.invert_yaxis()
        axes.set_title(f"One task, ours, {where} (medians of {len(tasks)})", fontsize=9)
        axes.margins(x=0.08)
    panels[-1].set_xlabel("milliseconds since its queueing")
    return figure


def _wan(ours: Raw) -> Figure:
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    for key, label in (("queued_to_start_s", "queued → start"), ("start_to_end_s", "start → end")):
        medians = over_links(ours, key)
        axes.plot(
            [rtt * 1000 for rtt in medians], [each * 1000 for each in medians.values()], marker="o", label=label
        )
    axes.set_title("One task, ours, over links of 1 Mbit/s (at 0: the local link)", fontsize=9)
    axes.set_xlabel("round trip time of the worker's link, ms")
    axes.set_ylabel("median of one task, ms")
    axes.set_ylim(bottom=0)
    axes.legend()
    return figure
