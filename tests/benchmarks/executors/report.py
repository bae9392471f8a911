"""The figures as tables: on the terminal, and as the generated part of ``docs/benchmarks.md``."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.executors.live_lines import EDGE_LOGS, FILE
from tests.benchmarks.executors.summary import METRICS, TARGETS, Metric, Raw, delays, over_links, round_trips
from tests.benchmarks.executors.waterfall import STAGES
from tests.benchmarks.figures import percentile

#: Between these lines of the page everything is generated.
BEGIN: Final = "<!-- results: written by make bench -->"
END: Final = "<!-- end of results -->"
_OURS: Final = "ours"


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def sheets(figures: Mapping[str, Raw]) -> list[Sheet]:
    """Return all tables that the figures give."""
    found = [_failed(figures), _comparison(figures), _targets(figures), _far_away(figures)]
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


def _targets(figures: Mapping[str, Raw]) -> Sheet:
    rows = []
    for target in TARGETS:
        value = target.measure(figures)
        bounds = (f"{'≥' if target.more_is_better else '≤'} {bound:.2f}" for bound in (target.at_least, target.aim))
        shown = "-" if value is None else f"{value:.3f} {target.unit}".strip()
        rows.append((target.title, *bounds, shown, target.verdict(figures)))
    return Sheet(title="Targets", columns=("", "at least", "aim", "measured", "verdict"), rows=tuple(rows))


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


def show(console: Console, machine: Mapping[str, str], figures: Mapping[str, Raw]) -> None:
    """Print everything."""
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for sheet in sheets(figures):
        table = Table(*(sheet.columns), title=sheet.title)
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)


def markdown(machine: Mapping[str, str], figures: Mapping[str, Raw]) -> str:
    """Return everything for the page."""
    lines = [f"Measured {machine['measured']}: {machine['machine']}, {machine['system']}."]
    versions = [f"{name} {value}" for name, value in machine.items() if name not in {"measured", "machine", "system"}]
    lines += [", ".join(versions) + ".", ""]
    for sheet in sheets(figures):
        lines += [f"### {sheet.title}", "", _row(sheet.columns), _row(["---"] * len(sheet.columns))]
        lines += [*map(_row, sheet.rows), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def replace_results(page: str, results: str) -> str:
    """Return the page with its generated part made anew.

    :raises ValueError: the page has no such part.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no part between {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{results.strip()}\n{END}{after}"


def rounded(value: Any) -> Any:
    """Return the figures with five digits after the point, which is more than they are worth."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return value
