"""What the benchmark of the bridge makes of raw figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.bridge.summary import (
    CONNECTION_BYTES,
    FAR_ROUND_TRIPS,
    JOBS_PER_S,
    METRICS,
    STARTED,
    sheets,
    targets,
)
from tests.benchmarks.page import markers, replace_part, rounded

PAGE = Path(__file__).parents[2] / "docs" / "benchmarks.md"


def turn(jobs_per_s: float) -> dict[str, Any]:
    delays = {f"{moment}_s": [0.2, 0.3] for moment in ("assigned", "started", "finished")}
    return {
        "jobs_per_s": jobs_per_s,
        "bridge_cpu_s": 0.002,
        "bridge_cpu_share": 0.9,
        "load_cpu_share": 0.1,
        **delays,
    }


def delays(first: float) -> dict[str, list[float]]:
    return {"assigned": [first], "started": [first * 2], "finished": [first * 3]}


def raw(*jobs_per_s: float, connections: int = 90, storm_s: float = 5.0) -> dict[str, Any]:
    return {
        "busy": [turn(value) for value in jobs_per_s],
        "calm": [delays(0.003), delays(0.005)],
        "far": [delays(0.080) | {"round_trip": [0.104]}],
        "storm": [{"seconds": storm_s, "bridge_cpu_s": 4.0, "load_cpu_s": 2.0, "finished_s": 9.0}],
        "connecting": {
            "connections": connections,
            "seconds": 1.0,
            "bridge_cpu_s": 0.2,
            "bytes": connections * 70_000,
        },
        "memory_bytes": 100_000_000,
        "idle": {"seconds": 30.0, "bridge_cpu_s": 0.1},
    }


def verdicts(figures: dict[str, Any]) -> dict[str, str]:
    return {target.title: target.verdict(figures) for target in targets(figures)}


def test_every_number_of_workers_has_its_column_and_every_metric_its_row() -> None:
    by_number, _ = sheets({"10": raw(500.0), "2000": raw(400.0)})
    assert by_number.columns == ("", "10 workers", "2,000 workers")
    assert by_number.rows[0] == (JOBS_PER_S.title, "500", "400")
    assert [row[0] for row in by_number.rows] == [metric.title for metric in METRICS]


def test_the_ratio_to_the_fewest_workers_is_the_median_of_each_rounds_own() -> None:
    # The machine was slow in the second round: the medians' ratio would be 0.6.
    figures = {"10": raw(500.0, 100.0, 600.0), "2000": raw(450.0, 90.0, 300.0)}
    ratio = targets(figures)[0]
    assert ratio.title == "jobs/s with 2,000 workers ÷ with 10"
    assert ratio.measure(figures) == pytest.approx(0.9)


def test_one_number_of_workers_alone_has_no_ratio() -> None:
    assert verdicts({"2000": raw(450.0)})["jobs/s with 2,000 workers ÷ with 2,000"] == "not measured"


def test_targets_are_judged_with_the_most_workers() -> None:
    figures = {"10": raw(5000.0, storm_s=0.1), "2000": raw(450.0, storm_s=21.0)}
    assert verdicts(figures) == {
        "jobs/s with 2,000 workers ÷ with 10": "not reached",
        "jobs/s, 2,000 workers": "reached",
        "submitted → started over 100 ms RTT, 2,000 workers: longer by": "aim reached",
        "memory per idle connection, 2,000 workers": "reached",
        "all cut at once: all back and welcome, 2,000 workers": "reached",
    }


def test_what_a_long_link_costs_is_told_in_its_own_measured_round_trips() -> None:
    assert STARTED.of(raw()) == pytest.approx(0.008)
    assert FAR_ROUND_TRIPS.of(raw()) == pytest.approx((0.160 - 0.008) / 0.104)


def test_a_verdict_is_about_what_is_shown() -> None:
    title = "submitted → started over 100 ms RTT, 10 workers: longer by"
    by_verdict = {}
    for started in (0.168, 0.170):
        figures = {"10": raw(500.0) | {"far": [delays(started / 2) | {"round_trip": [0.104]}]}}
        (row,) = [row for row in sheets(figures)[1].rows if row[0] == title]
        by_verdict[row[-1]] = row[-2]
    assert by_verdict == {"aim reached": "1.5 RTT", "not reached": "1.6 RTT"}


def test_memory_is_told_per_connection_and_not_at_all_without_any() -> None:
    assert CONNECTION_BYTES.of(raw()) == pytest.approx(70_000)
    assert CONNECTION_BYTES.of(raw(connections=0)) is None


def test_what_was_left_out_has_no_row() -> None:
    figures = {"10": raw(500.0) | {"storm": []}}
    figures["10"].pop("idle")
    by_number, verdict = sheets(figures)
    assert not [row[0] for row in by_number.rows if "cut" in row[0] or "at rest" in row[0]]
    assert [row[-2:] for row in verdict.rows if "cut" in row[0]] == [("-", "not measured")]


def test_stored_figures_of_the_bridge_give_the_same_tables() -> None:
    figures = {"10": raw(500.0), "2000": raw(1000 / 3)}
    assert sheets(json.loads(json.dumps(rounded(figures)))) == sheets(figures)


@pytest.mark.parametrize("part", ["bridge", "results"])
def test_the_page_has_a_place_for_each_generated_part(part: str) -> None:
    begin, end = markers(part)
    assert f"{begin}\nnew\n{end}" in replace_part(PAGE.read_text(), part, "new")
