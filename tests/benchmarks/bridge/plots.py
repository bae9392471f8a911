"""The figures of the bridges as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.figure import Figure

from tests.benchmarks.bridge.summary import CPU, FAR_STARTED, IDLE_CPU, JOBS_PER_S, MEMORY, STARTED, STORM
from tests.benchmarks.metrics import Metric, Raw
from tests.benchmarks.pictures import save

_PANELS: Final[Sequence[tuple[str, Mapping[str, Metric]]]] = (
    ("jobs/s, durable", {"": JOBS_PER_S}),
    ("bridge CPU per job, ms", {"": CPU}),
    ("submitted → started, one at a time, ms", {"near": STARTED, "over 100 ms RTT": FAR_STARTED}),
    ("bridge memory, MB", {"": MEMORY}),
    ("a minute at rest: bridge CPU, s", {"": IDLE_CPU}),
    ("all cut at once: all back after, s", {"": STORM}),
)
_COLOURS: Final = ("#0072b2", "#e69f00")


def draw(figures: Mapping[str, Raw], folder: Path) -> list[Path]:
    """Draw every figure over the number of connected workers; return the files."""
    figure = Figure(figsize=(12, 5.5), layout="constrained")
    for place, (title, metrics) in enumerate(_PANELS, 1):
        _panel(figure.add_subplot(2, 3, place), title, metrics, figures)
    return save(figure, folder / "bridge")


def _panel(axes: Any, title: str, metrics: Mapping[str, Metric], figures: Mapping[str, Raw]) -> None:
    highest = 0.0
    for colour, (label, metric) in zip(_COLOURS, metrics.items(), strict=False):
        points = [(int(name), number * metric.scale) for name, raw in figures.items() if (number := metric.of(raw))]
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=label)
        highest = max(highest, *(value for _, value in points))
    if len(metrics) > 1:
        axes.legend()
    axes.set_title(title, fontsize=9)
    axes.set_xlabel("connected workers")
    axes.set_ylim(0, highest * 1.15)
