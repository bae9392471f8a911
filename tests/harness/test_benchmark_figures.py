"""What the benchmark of the executors makes of raw figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from tests.benchmarks.executors.live_lines import ages
from tests.benchmarks.executors.report import sheets, stage_lengths
from tests.benchmarks.executors.summary import (
    BYTES_IDLE,
    METRICS,
    QUEUED_TO_START,
    TARGETS,
    TASKS_PER_S,
    ratio,
    round_trips,
)
from tests.benchmarks.executors.traffic import RequestCounter, Traffic
from tests.benchmarks.executors.waterfall import STAGES, logged_at
from tests.benchmarks.figures import percentile, slope
from tests.benchmarks.metrics import Target
from tests.benchmarks.page import markdown, markers, replace_part, rounded

COUNTS = {"bytes_up": 600, "bytes_down": 400, "connections": 0, "requests": 0, "writes": 4}
MACHINE = {"measured": "2026-01-02 03:04 UTC", "machine": "box, 2 cores, 4 GiB", "system": "Linux", "Python": "3.11"}


def single(queued_to_start_s: float) -> dict[str, Any]:
    return {"queued_to_start_s": queued_to_start_s, "start_to_end_s": 0.1, "cpu_s": 0.2, **COUNTS}


def raw(*queued_to_start_s: float, tasks_per_s: float = 5.0, pss_bytes: int = 100_000_000) -> dict[str, Any]:
    return {
        "single": [single(value) for value in queued_to_start_s],
        "mapped": [{"tasks": 100, "tasks_per_s": tasks_per_s, "cpu_s": 0.1, "slowest_s": 2.0, **COUNTS}],
        "full": [{"pss_bytes": pss_bytes, "processes": 34}],
        "idle": [{"seconds": 30.0, "cpu_s": 0.1, "pss_bytes": pss_bytes, **COUNTS}],
        "lines": [{"central file": [0.01, 0.03]}, {"central file": [0.02]}],
        "wan": {},
        "failed": [],
    }


def target(title: str) -> Target:
    (found,) = [target for target in TARGETS if target.title == title]
    return found


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0], 0.95, 3.0), ([2.0, 1.0, 3.0], 0.5, 2.0), ([1.0, 2.0], 0.75, 1.75), ([1.0, 5.0, 9.0], 1.0, 9.0)],
)
def test_a_percentile_lies_between_its_neighbours_by_distance(
    values: Sequence[float], share: float, expected: float
) -> None:
    assert percentile(values, share) == pytest.approx(expected)


def test_round_trips_are_the_growth_of_a_duration_with_the_round_trip_time() -> None:
    figures = raw(0.05) | {"wan": {"0.1": [single(0.20)], "0.3": [single(0.50)]}}
    assert round_trips(figures, "queued_to_start_s") == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("rtts", "rows"), [(["0.1"], ["0", "100"]), (["0.1", "0.3"], ["0", "100", "300", "round trips"])]
)
def test_round_trips_are_told_when_several_long_links_were_measured(rtts: list[str], rows: list[str]) -> None:
    figures = {"edge3": raw(0.05) | {"wan": {rtt: [single(0.05 + float(rtt))] for rtt in rtts}}}
    (far_away,) = [sheet for sheet in sheets(figures) if "WAN" in sheet.title]
    assert [row[1] for row in far_away.rows] == rows


def test_one_link_alone_tells_no_round_trips() -> None:
    with pytest.raises(ValueError, match="two different places"):
        slope([(0.1, 1.0), (0.1, 2.0)])


def test_idle_traffic_is_told_per_minute() -> None:
    assert BYTES_IDLE.of(raw(0.1)) == pytest.approx(2000.0)


def test_a_ratio_is_of_medians() -> None:
    figures = {"ours": raw(0.1, 0.2, 9.0), "edge3": raw(2.0)}
    assert ratio(QUEUED_TO_START, figures, "edge3", "ours") == pytest.approx(10.0)


def test_what_was_not_measured_has_no_ratio() -> None:
    assert ratio(QUEUED_TO_START, {"ours": raw(0.1)}, "edge3", "ours") is None
    assert ratio(QUEUED_TO_START, {"ours": raw(), "edge3": raw(1.0)}, "edge3", "ours") is None


@pytest.mark.parametrize(
    ("celerys", "verdict"),
    [(0.1, "aim reached"), (0.08, "reached"), (0.05, "not reached")],
)
def test_a_target_of_less_is_judged_by_its_upper_bounds(celerys: float, verdict: str) -> None:
    figures = {"ours": raw(0.1), "Celery + Redis": raw(celerys)}
    assert target("queued → start ÷ Celery's").verdict(figures) == verdict


@pytest.mark.parametrize(
    ("tasks_per_s", "verdict"),
    [(12.1, "aim reached"), (10.0, "reached"), (9.9, "not reached")],
)
def test_a_target_of_more_is_judged_by_its_lower_bounds(tasks_per_s: float, verdict: str) -> None:
    figures = {"ours": raw(0.1, tasks_per_s=tasks_per_s), "LocalExecutor": raw(0.1, tasks_per_s=10.0)}
    assert target("100 mapped tasks: tasks/s ÷ LocalExecutor's").verdict(figures) == verdict


def test_a_target_without_its_peer_is_not_measured() -> None:
    assert target("idle: memory ÷ edge3's").verdict({"ours": raw(0.1)}) == "not measured"


def test_the_wan_target_is_told_in_round_trips_more_than_nearby() -> None:
    near = raw(0.05)
    far = near | {"wan": {"0.1": [single(0.18)]}}
    longer = target("queued → start over 100 ms RTT: longer by")
    assert longer.measure({"ours": far}) == pytest.approx(1.3)
    assert longer.measure({"ours": near}) is None


def test_every_row_tells_each_peers_number_as_a_multiple_of_ours() -> None:
    comparison = sheets({"ours": raw(0.1), "edge3": raw(2.0)})[0]
    assert comparison.columns == ("", "ours", "edge3")
    assert comparison.rows[0] == (QUEUED_TO_START.title, "100 ms", "2,000 ms (20.00)")
    assert [row[0] for row in comparison.rows] == [metric.title for metric in METRICS]


def test_a_run_without_ours_is_shown_without_ratios() -> None:
    comparison = sheets({"edge3": raw(2.0)})[0]
    assert comparison.rows[0] == (QUEUED_TO_START.title, "2,000 ms")


def test_the_waterfall_has_the_median_length_of_each_stage() -> None:
    tasks = [[float(moment * factor) for moment in range(len(STAGES) + 1)] for factor in (1, 2, 9)]
    assert stage_lengths(tasks) == [2.0] * len(STAGES)
    shown = sheets({"ours": raw(0.1) | {"waterfall": {"nearby": tasks}}})[-1]
    assert shown.rows[-1] == ("together", f"{2000.0 * len(STAGES):.1f}")


def test_the_page_keeps_what_stands_around_the_results() -> None:
    begin, end = markers("results")
    page = f"before\n{begin}\nold\n{end}\nafter\n"
    new = replace_part(page, "results", markdown(MACHINE, sheets({"ours": raw(0.1)})))
    assert new.startswith(f"before\n{begin}\nMeasured 2026-01-02 03:04 UTC: box")
    assert new.endswith(f"\n{end}\nafter\n")
    assert "old" not in new


def test_a_page_without_a_place_for_results_is_refused() -> None:
    with pytest.raises(ValueError, match="no part between"):
        replace_part("text {} {}".format(*reversed(markers("results"))), "results", "tables")


def test_what_failed_is_said_first_and_in_the_table() -> None:
    broken = raw(0.2) | {"mapped": [], "failed": [("round 1 of 3, 100 mapped tasks", "WaitedTooLong: a | b")]}
    failed, comparison, *_ = sheets({"ours": raw(0.1), "edge3": broken})
    assert failed.rows == (("edge3", "round 1 of 3, 100 mapped tasks", "WaitedTooLong: a / b"),)
    cells = {row[0]: row[1:] for row in comparison.rows}
    assert cells[TASKS_PER_S.title] == ("5.00 tasks/s", "failed")
    assert cells[QUEUED_TO_START.title] == ("100 ms", "200 ms (2.00)")


def test_a_link_over_which_every_task_failed_is_left_out() -> None:
    figures = {"ours": raw(0.05) | {"wan": {"0.1": [single(0.15)], "0.3": []}}}
    (far_away,) = [sheet for sheet in sheets(figures) if "WAN" in sheet.title]
    assert [row[1] for row in far_away.rows] == ["0", "100"]


def test_stored_figures_give_the_same_tables() -> None:
    figures = {"ours": raw(0.1) | {"wan": {"0.1": [single(1 / 3)]}}, "edge3": raw(2.0)}
    assert sheets(json.loads(json.dumps(rounded(figures)))) == sheets(figures)


def test_a_line_in_pieces_is_as_old_as_its_end() -> None:
    chunks = [(11.0, b"now 10.0\nno"), (12.5, b"w 12.0\nother\nnow 1")]
    assert list(ages(chunks)) == [1.0, 0.5]


def test_a_time_in_a_log_is_found_whatever_its_form() -> None:
    text = "2026-01-02T03:04:05.250000Z job a submitted\n2026-01-02T03:04:06.5Z job b submitted\nno time: job c"
    assert logged_at(text, "job b") - logged_at(text, "job a") == 1.25
    with pytest.raises(LookupError, match="no time"):
        logged_at(text, "job c")
    with pytest.raises(LookupError, match="no line"):
        logged_at(text, "job d")


def test_requests_are_counted_whatever_the_pieces() -> None:
    counter = RequestCounter()
    stream = b"POST /a HTTP/1.1\r\nHost: x\r\n\r\nbodyGET /b?c HTTP/1.1\r\n\r\nPATCH /d HTTP/1.1\r\n"
    assert sum(counter.feed(stream[place : place + 7]) for place in range(0, len(stream), 7)) == 3


def test_bytes_that_are_no_requests_are_not_counted() -> None:
    assert RequestCounter().feed(b"\x16\x03\x01GET lost HTTP\r\nPOST /a HTTP/2\r\n" + bytes(5000)) == 0


def test_traffic_is_added_and_subtracted_field_by_field() -> None:
    one = Traffic(bytes_up=1, bytes_down=2, connections=3, requests=4, writes=5)
    assert one + one - one == one
    assert (one + one).total_bytes == 6
