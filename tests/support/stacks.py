"""Whole systems for tests: started in a folder of their own, and quoted in the report of every test that fails."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.quickstart.errors import ServiceFailed
from deploy.quickstart.stack import Stack

DAGS = Path(__file__).parents[1] / "e2e" / "dags"
#: The scheduler loops often, because tests wait for it all the time, and takes over from a dead one within seconds.
QUICK = {
    "scheduler": {
        "scheduler_idle_sleep_time": "0.1",
        "scheduler_health_check_threshold": "15",
        "orphaned_tasks_check_interval": "10",
    }
}
#: Lines of each part's output in the report of a failing test.
TAIL_LINES = 40
#: The stacks that run now.
_running: list[Stack] = []


@contextlib.contextmanager
def running_stack(**options: Any) -> Iterator[Stack]:
    """Run a stack in a folder of its own, removed afterwards."""
    # Not pytest's tmp_path: its names are long, and a unix socket's path may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="edge-"))
    options.setdefault("dags", DAGS)
    options.setdefault("config", QUICK)
    stack = Stack(directory, **options)
    _running.append(stack)
    try:
        try:
            stack.start()
        except ServiceFailed as failure:
            # The report of a failed set-up is made when the stack is gone.
            pytest.fail("\n".join([str(failure), *(text for section in tails() for text in section)]))
        yield stack
    finally:
        stack.stop()
        _running.remove(stack)
        shutil.rmtree(directory)


def tails() -> list[tuple[str, str]]:
    """Return a title and the end of the output for every part of every stack that runs."""
    return [
        (f"last lines of {part.name}", "\n".join(part.output().splitlines()[-TAIL_LINES:]))
        for stack in _running
        for part in stack.services.values()
    ]


@pytest.hookimpl(wrapper=True)
def report_with_tails() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the services have written last to the report of a failing test (a conftest's hook)."""
    report = yield
    if report.failed:
        report.sections.extend(tails())
    return report
