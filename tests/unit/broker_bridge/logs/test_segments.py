"""Where a job goes on in a file that others may have changed, and how long the rest of a log is waited for."""

from __future__ import annotations

import pytest

from edge_mqtt.broker_bridge.logs.completeness import LOG_WAIT_S, OBSERVATION_S, Watch, is_over, observe
from edge_mqtt.broker_bridge.logs.segments import Found, find_base


@pytest.mark.parametrize(
    ("found", "base"),
    [
        pytest.param(Found(size=150, left_at=None, same=True), 100, id="not written by this program"),
        pytest.param(Found(size=150, left_at=150, same=True), 100, id="as it was left"),
        pytest.param(Found(size=120, left_at=150, same=True), 100, id="bytes of the job are gone"),
        pytest.param(Found(size=99, left_at=150, same=True), None, id="bytes before the job are gone"),
        pytest.param(Found(size=99, left_at=None, same=True), None, id="bytes before the job never came"),
        pytest.param(Found(size=0, left_at=150, same=False), None, id="the file is gone"),
        pytest.param(Found(size=160, left_at=150, same=True), 110, id="somebody appends"),
        pytest.param(Found(size=150, left_at=150, same=False), 100, id="restored as it was"),
        pytest.param(Found(size=160, left_at=150, same=False), None, id="another file"),
    ],
)
def test_a_job_goes_on_where_nothing_is_lost_or_mixed(found: Found, base: int | None) -> None:
    assert find_base(100, 100, found) == base


def test_a_job_that_stands_at_the_file_s_beginning_loses_nothing_with_the_file() -> None:
    assert find_base(0, 0, Found(size=0, left_at=150, same=False)) == 0


def test_a_line_before_the_job_that_is_not_written_yet_is_no_loss() -> None:
    assert find_base(100, 60, Found(size=60, left_at=60, same=True)) == 100
    assert find_base(100, 60, Found(size=75, left_at=60, same=True)) == 115


def test_a_long_time_between_two_observations_counts_as_a_short_one() -> None:
    first = observe(None, stored=5, connected=True, now=0.0)
    second = observe(first, stored=5, connected=True, now=10 * LOG_WAIT_S)
    assert second.idle_s == OBSERVATION_S
    assert not is_over(second, LOG_WAIT_S)


def test_a_worker_that_comes_back_is_waited_for_anew_but_not_each_time_for_the_whole_wait() -> None:
    away = Watch(stored=5, observed_at=0.0, idle_s=LOG_WAIT_S - OBSERVATION_S, away_s=800.0)
    back = observe(away, stored=5, connected=True, now=1.0)
    assert (back.away_s, is_over(back, 900.0)) == (0.0, False)
    assert is_over(observe(back, stored=5, connected=True, now=100.0), 900.0)
    assert observe(back, stored=6, connected=True, now=100.0) == Watch(stored=6, observed_at=100.0)
