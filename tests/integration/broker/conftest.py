"""A broker of one site: its times, its limits, and a worker, an executor and a rogue that may connect."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.broker.limits import Limits, Timing
from tests.support.scenario_broker import Site


@pytest.fixture
def timing() -> Timing:
    return Timing()


@pytest.fixture
def limits() -> Limits:
    return Limits()


@pytest.fixture
def site(tmp_path: Path, caplog: pytest.LogCaptureFixture, timing: Timing, limits: Limits) -> Iterator[Site]:
    made = Site(tmp_path, caplog, timing=timing, limits=limits)
    yield made
    made.close()
