"""What Airflow's reader of logs gets from the executor."""

from __future__ import annotations

from pathlib import Path

import pytest
from airflow.utils.log import file_task_handler
from airflow.utils.log.file_task_handler import FileTaskHandler
from airflow.utils.state import TaskInstanceState

from edge_mqtt.broker_bridge.transport.memory import MemoryBroker
from edge_mqtt.executor import EdgeMqttExecutor
from tests.support.scenario_executor import CLASS_PATH, TwinExecutor, make_run, set_task, task_instance

pytestmark = pytest.mark.usefixtures("database")


# Airflow's own reader leaves the file to the garbage collector.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_a_running_task_s_log_is_read_from_the_folder_once_and_not_from_the_worker(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_run({"task_id": "t"})
    set_task(state=TaskInstanceState.RUNNING, hostname="lab-3.example.com", try_number=1, executor=CLASS_PATH)
    asked = []
    monkeypatch.setattr(file_task_handler, "_fetch_logs_from_service", lambda url, _: asked.append(url))
    monkeypatch.setattr(FileTaskHandler, "executor_instances", {CLASS_PATH: EdgeMqttExecutor()})
    handler = FileTaskHandler(str(tmp_path / "logs"))
    ti = task_instance()
    path = tmp_path / "logs" / handler._render_filename(ti, 1)
    path.parent.mkdir(parents=True)
    path.write_text('{"timestamp":"2024-01-01T00:00:00Z","event":"a line of the task"}\n')
    stream, _ = handler.read(ti, 1)
    lines = [entry.event for entry in stream]
    assert lines.count("a line of the task") == 1
    assert any("live from edge worker lab-3.example.com" in line for line in lines)
    assert asked == []


def test_the_log_of_an_earlier_try_names_no_host(broker: MemoryBroker) -> None:
    make_run({"task_id": "t"})
    set_task(state=TaskInstanceState.RUNNING, hostname="lab-3", try_number=2)
    messages, lines = TwinExecutor(broker).get_task_log(task_instance(), 1)
    assert messages == ["Log received live from its edge worker by the edge bridge"]
    assert lines == []
