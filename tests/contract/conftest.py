"""A ledger in a file, for the tests of the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from tests.support.ledger_contract import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "ledger.db"


@pytest.fixture
def sql(path: Path, clock: Clock) -> Iterator[SqlLedger]:
    opened = SqlLedger(f"sqlite:///{path}", clock)
    yield opened
    opened.close()
