"""The figures as tables."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from tests.benchmarks.executors.live_lines import EDGE_LOGS, FILE
from tests.benchmarks.executors.summary import METRICS, TARGETS, delays, over_links, round_trips
from tests.benchmarks.executors.waterfall import STAGES
from tests.benchmarks.figures import percentile
from tests.benchmarks.metrics import Metric, Raw
from tests.benchmarks.page import Sheet, target_sheet

_OURS: Final = "ours"


def sheets(figures: Mapping[str, Raw]) -> list[Sheet]:
    """Return all tables that the figures give."""
    found = [_failed(figures), _comparison(figures), target_sheet("Targets", TARGETS, figures), _far_away(figures)]
    if _OURS in figures:
        found += [_readers(figures[_OURS]), *_waterfalls(figures[_OURS])]
    return [sheet for sheet in found if sheet.rows]


def _failed(figures: Mapping[str, Raw]) -> Sheet:
    rows = ((name, step, reason.replace("|", "/")) for name, raw in figures.items() for step, reason in raw["failed"])
    return Sheet(title="Steps that failed", columns=("", "step", "why"), rows=tuple(rows))


def _comparison(figures: Mapping[str, Raw]) -> Sheet:
    rows = (
        (metric.title, *(_cell(metric, figures, name) for name in figures))
        for metric in METRICS
        if any(metric.of(raw) is not None for raw in figures.values())
    )
    return Sheet(title="Side by side (in brackets: ÷ ours)", columns=("", *figures), rows=tuple(rows))


def _cell(metric: Metric, figures: Mapping[str, Raw], name: str) -> str:
    number = metric.of(figures[name])
    own = metric.of(figures[_OURS]) if _OURS in figures else None
    text = metric.show(number)
    if number is None and figures[name]["failed"]:
        return "failed"
    return text if name == _OURS or number is None or not own else f"{text} ({number / own:,.2f})"


def _far_away(figures: Mapping[str, Raw]) -> Sheet:
    return Sheet(
        title="Over a simulated WAN of 1 Mbit/s, one task, median",
        columns=("", "RTT, ms", "queued → start, ms", "start → end, ms"),
        rows=tuple(row for name, raw in figures.items() if any(raw["wan"].values()) for row in _wan_rows(name, raw)),
    )


def _wan_rows(name: str, raw: Raw) -> Iterator[tuple[str, ...]]:
    keys = ("queued_to_start_s", "start_to_end_s")
    medians = [over_links(raw, key) for key in keys]
    for rtt in medians[0]:
        yield (name, f"{rtt * 1000:.0f}", *(f"{found[rtt] * 1000:,.0f}" for found in medians))
    # One far link alone would make round trips of what is chance, and of a worker that polls most is.
    if len(medians[0]) > 2:
        yield (name, "round trips", *(f"{round_trips(raw, key):.1f}" for key in keys))


def _readers(raw: Raw) -> Sheet:
    rows = [
        (reader, f"{statistics.median(found) * 1000:.0f}", f"{percentile(found, 0.95) * 1000:.0f}")
        for reader in (FILE, EDGE_LOGS)
        if (found := delays(raw, reader))
    ]
    return Sheet(
        title="From a printed line to its reader, ours", columns=("", "median, ms", "p95, ms"), rows=tuple(rows)
    )


def stage_lengths(tasks: Sequence[Sequence[float]]) -> list[float]:
    """Return the median length of each stage of the waterfall, in seconds.

    :param tasks: for each task the moments between which the stages lie.
    """
    return [statistics.median(task[n + 1] - task[n] for task in tasks) for n in range(len(STAGES))]


def _waterfalls(raw: Raw) -> Iterator[Sheet]:
    for where, tasks in raw.get("waterfall", {}).items():
        lengths = stage_lengths(tasks)
        rows = [(stage, f"{length * 1000:.1f}") for stage, length in zip(STAGES, lengths, strict=True)]
        yield Sheet(
            title=f"Where the time of one task goes, ours, {where}",
            columns=("", "median, ms"),
            rows=(*rows, ("together", f"{sum(lengths) * 1000:.1f}")),
        )
