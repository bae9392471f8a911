"""A scheduler's real code over Airflow's database in a file, and a bridge that answers from memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

# Before Airflow's first import, which reads it.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-home-"))

import pytest

from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from tests.support.fake_bridge import TwinBridge
from tests.support.scenario_executor import MakeScheduler, airflow_database, schedulers


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with airflow_database(f"sqlite:///{tmp_path}/airflow.db", tmp_path / "certs", monkeypatch):
        yield


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker()


@pytest.fixture
def bridge(broker: MemoryBroker) -> TwinBridge:
    return TwinBridge(broker)


@pytest.fixture
def make_scheduler(broker: MemoryBroker) -> Iterator[MakeScheduler]:
    with schedulers(broker) as make:
        yield make
