"""One whole system for all tests of this folder, and more of them for tests that break things."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.quickstart import demo
from deploy.quickstart.errors import PartFailed
from deploy.quickstart.ports import Ports
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.e2e.link import BadLink

DAGS = Path(__file__).parent / "dags"
#: The scheduler loops often, because tests wait for it all the time, and takes over from a dead one within seconds.
QUICK = {
    "scheduler": {
        "scheduler_idle_sleep_time": "0.1",
        "scheduler_health_check_threshold": "15",
        "orphaned_tasks_check_interval": "10",
    }
}
#: The stacks that run now, for the report of a failing test.
_RUNNING: list[Stack] = []


@contextlib.contextmanager
def running_stack(**options: Any) -> Iterator[Stack]:
    """Run a stack in a folder of its own, removed afterwards."""
    # Not pytest's tmp_path: its names are long, and a unix socket's path may have 107 bytes.
    directory = Path(tempfile.mkdtemp(prefix="edge-"))
    options.setdefault("dags", DAGS)
    options.setdefault("config", QUICK)
    stack = Stack(directory, **options)
    _RUNNING.append(stack)
    try:
        try:
            stack.start()
        except PartFailed as failure:
            pytest.fail("\n".join([str(failure), *failure.last_lines]))
        yield stack
    finally:
        stack.stop()
        _RUNNING.remove(stack)
        shutil.rmtree(directory)


@pytest.fixture(scope="session")
def ports() -> Ports:
    """The ports of the shared stack."""
    return Ports.free()


@pytest.fixture(scope="session")
def bad_link(ports: Ports) -> Iterator[BadLink]:
    """The link between the shared stack's worker and its bridge; leave it good."""
    with BadLink(ports.bridge) as link:
        yield link


@pytest.fixture(scope="session")
def stack(ports: Ports, bad_link: BadLink, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack with one worker, ``edge-1``, and the demo's Dag beside the tests'; leave it as it was."""
    dags = tmp_path_factory.mktemp("dags")
    for folder in (DAGS, demo.DAGS):
        shutil.copytree(folder, dags, dirs_exist_ok=True)
    worker = WorkerSpec(name="edge-1", queues=("default", "press"), concurrency=24, via=bad_link.port)
    with running_stack(dags=dags, workers=[worker], ports=ports) as started:
        for file in dags.glob("*.py"):
            started.wait_for_dag(file.stem)
        yield started


@pytest.fixture
def make_stack() -> Iterator[Callable[..., Stack]]:
    """Start stacks of the test's own, with :class:`Stack`'s arguments; they end with the test."""
    with contextlib.ExitStack() as started:

        def make(**options: Any) -> Stack:
            return started.enter_context(running_stack(**options))

        yield make


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add what the parts have written last to the report of a failing test."""
    report = yield
    if report.failed:
        for stack in _RUNNING:
            for part in stack.parts.values():
                report.sections.append((f"last lines of {part.name}", "\n".join(part.last_lines())))
    return report
