"""The bridge says of a worker that its clock is wrong."""

from __future__ import annotations

import logging

import pytest

from edge_mqtt.broker_bridge.protocol.ids import WorkerName
from edge_mqtt.broker_bridge.worker_clocks import WorkerClocks


def test_wrong_clock_is_one_warning_a_worker_until_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge_mqtt.broker_bridge")
    clocks = WorkerClocks()
    for name, offset_s in [
        ("a", 0.0),
        ("a", 120.0),
        ("a", 120.4),
        ("b", -60.0),
        ("a", 0.0),
        ("b", -90.0),
        ("a", 0.0),
    ]:
        clocks.record_offset(WorkerName(name), offset_s)
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "the clock of worker a is 120 s behind the bridge's",
        "the clock of worker b is 60 s ahead of the bridge's",
        "the clock of worker a is right again",
        "the clock of worker b is 90 s ahead of the bridge's",
    ]
