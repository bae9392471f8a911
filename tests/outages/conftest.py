"""The whole systems that the tests of this folder share: one for every set of settings, one at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.quickstart.ports import Ports
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.support.bad_link import BadLink
from tests.support.outage_systems import BRIEF, DAG_IDS, FAR, KEPT, NEAR, QUEUE, Settings, System
from tests.support.stacks import report_with_tails, running_stack

pytest_runtest_makereport = report_with_tails

DAGS = Path(__file__).parent / "dags_outages"


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest) -> Iterator[System]:
    """A running system with the settings that the test's module asks for (``ordinary`` or ``hurried``).

    Session-wide and parametrised: pytest puts the modules with the same settings together and ends one system before
    it starts the next.
    """
    settings: Settings = request.param
    with contextlib.ExitStack() as held:
        ports = Ports.free()
        far_link, executors_link = (held.enter_context(BadLink(ports.bridge)) for _ in range(2))
        workers = [
            # It has more free slots, so that it gets every task while it is there.
            WorkerSpec(name=FAR, queues=(QUEUE, BRIEF, KEPT), concurrency=8, via=far_link.port),
            WorkerSpec(name=NEAR, queues=(QUEUE, BRIEF, KEPT), concurrency=2),
        ]
        options = {"config": settings.config, "environment": settings.environment}
        stack = running_stack(dags=DAGS, ports=ports, workers=workers, executor_via=executors_link.port, **options)
        started = held.enter_context(stack)
        for dag_id in DAG_IDS:
            started.wait_for_dag(dag_id)
        yield System(stack=started, far_link=far_link, executors_link=executors_link)


@pytest.fixture
def stack(system: System) -> Iterator[Stack]:
    """The running stack, with good links and the far worker connected; every part of it lives at the test's end."""
    system.stack.wait_until(system.is_connected, "the links to be good", timeout_s=90)
    yield system.stack
    system.mend()
    try:
        system.stack.check_alive()
    finally:
        system.revive()


@pytest.fixture
def far_link(system: System) -> BadLink:
    """The link between the far worker and the bridge."""
    return system.far_link


@pytest.fixture
def executors_link(system: System) -> BadLink:
    """The link between the scheduler and the bridge."""
    return system.executors_link
