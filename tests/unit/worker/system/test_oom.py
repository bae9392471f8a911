"""Whom the kernel kills first when it lacks memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mqtt.worker.system.oom import prefer_as_oom_victim


@pytest.mark.parametrize(
    ("before", "after"), [("0\n", "500"), ("-900\n", "-400"), ("800\n", "1000"), ("1000\n", "1000")]
)
def test_a_task_comes_before_its_service_wherever_that_stands(tmp_path: Path, before: str, after: str) -> None:
    score = tmp_path / "oom_score_adj"
    score.write_text(before)
    prefer_as_oom_victim(score)
    assert score.read_text() == after


def test_a_machine_without_such_an_order_is_left_as_it_is(tmp_path: Path) -> None:
    prefer_as_oom_victim(tmp_path / "no" / "such" / "file")
    assert list(tmp_path.iterdir()) == []
