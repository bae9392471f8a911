"""One whole system for all tests of this folder, and more of them for tests that break things."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploy.quickstart import demo
from deploy.quickstart.ports import Ports
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.support.bad_link import BadLink
from tests.support.stacks import DAGS, report_with_tails, running_stack

pytest_runtest_makereport = report_with_tails


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
