"""Readers of a task's lines end with the task, whatever becomes of it."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest

from deploy.quickstart.stack import Stack
from tests.benchmarks.executors import live_lines


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    """A stack that is not up; its runs begin all the same."""
    stack = Stack(tmp_path / "stack", dags=tmp_path, executor="LocalExecutor")
    monkeypatch.setattr(stack, "trigger", lambda _dag_id: "run-1")
    return stack


def never_ends(_dag_id: str, _run_id: str) -> None:
    raise TimeoutError("the run goes on")


def test_no_reader_outlives_a_task_that_does_not_end(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    # edge-logs -f goes on for as long as the task does.
    monkeypatch.setattr(live_lines, "edge_logs_command", lambda *_, **__: ["sleep", "100"])
    before = {process.pid for process in psutil.Process().children()}
    with pytest.raises(TimeoutError, match="the run goes on"):
        live_lines.measure(stack, with_edge_logs=True, wait_run=never_ends)
    assert {process.pid for process in psutil.Process().children()} == before
    for thread in threading.enumerate():
        if thread.name == "reader":
            thread.join(10.0)
            assert not thread.is_alive()
