"""A worker and a bridge of different protocol versions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.messages import Presence, WorkerState
from edge_mqtt.broker_bridge.transport import channel
from tests.support.scenario_worker import Lab, fresh_home, play, supervisor_of
from tests.support.worker_lab import NAME, TOPICS, task_job


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("ours", "packet"), [(1, b'{"v":2,"kind":"greeting"}'), (2, b'{"v":1,"kind":"error","error":"?"}')]
)
def test_bridge_of_another_version_ends_the_worker_and_leaves_the_running_task_to_the_upgraded_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ours: int, packet: bytes
) -> None:
    supervisors = []

    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("wait_for"))
        await lab.log_line(job_id, "tick 1")
        supervisors.append(supervisor_of(lab.state, job_id))
        monkeypatch.setattr(channel, "PROTOCOL_VERSION", ours)
        lab.bridge.broker.publish(TOPICS.control(NAME), packet, qos=1, retain=False)
        await lab.bridge.until(lambda: lab.bridge.of(Presence, lambda m: m.state is WorkerState.OFFLINE))

    assert play(tmp_path, scenario, ask=None) is ExitCode.PROTOCOL_VERSION
    (error,) = [record.message for record in caplog.records if record.levelname == "ERROR"]
    older = "this program" if ours == 1 else "the bridge"
    assert error == f"the bridge speaks protocol version {3 - ours}, this program speaks {ours}: upgrade {older}"
    assert "1 running jobs go on" in caplog.text
    assert supervisors[0].is_running()
    assert supervisors[0].status() != psutil.STATUS_ZOMBIE
