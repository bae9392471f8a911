"""A Dag that configures logging finds what it finds in plain Python: on a real worker, in a real task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.worker_lab import task_job

DAG = """
import logging
import logging.config

from airflow.sdk import DAG, task

OUT = {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}}
ROOT = {"handlers": ["out"], "level": "INFO"}

with DAG("lab") as dag:

    @task
    def equal_configurations():
        for number in range(3):
            config = {"version": 1, "disable_existing_loggers": False, "handlers": OUT, "root": ROOT}
            logging.config.dictConfig(config)
            logging.getLogger("lab").info("configuration %d is in force", number)

    @task
    def loggers_between():
        config = {"version": 1, "handlers": OUT, "loggers": {"kept": {"level": "DEBUG"}}, "root": ROOT}
        disabled = []
        for number in range(3):
            between = logging.getLogger(f"between.{number}")
            logging.config.dictConfig(config)
            disabled.append((between.disabled, logging.getLogger("kept").disabled))
        print("between and kept are disabled:", disabled)

    @task
    def library():
        print("dictConfig is of", logging.config.dictConfig.__module__)

    equal_configurations()
    loggers_between()
    library()
"""


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield from fresh_home(tmp_path, monkeypatch)


def test_dag_that_configures_logging_again_and_again_is_served_as_by_plain_python(tmp_path: Path) -> None:
    (tmp_path / "home" / "dags" / "lab.py").write_text(DAG)
    logs: dict[str, str] = {}

    async def scenario(lab: Lab) -> None:
        for task_id in ("equal_configurations", "loggers_between", "library"):
            job_id = lab.bridge.assign(task_job(task_id))
            result = await lab.bridge.result(job_id)
            assert result.exit_code == 0, task_id
            await lab.whole_log(job_id, result.log_size)
            logs[task_id] = lab.bridge.logs[job_id].decode()

    play(tmp_path, scenario)
    assert all(f"configuration {number} is in force" in logs["equal_configurations"] for number in range(3))
    assert f"disabled: {[(True, False)] * 3}" in logs["loggers_between"]
    assert "dictConfig is of logging.config" in logs["library"]
