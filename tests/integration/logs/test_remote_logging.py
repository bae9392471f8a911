"""Airflow's remote logging on the edge, at the same time: the central log is complete and no task fails of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.broker_bridge.protocol.messages import ApiRequest, ApiResponse
from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.task_jobs import answer_json
from tests.support.worker_lab import execution_api, task_job

#: A logging configuration as deployers write it: uploads to a folder, the way that Airflow's providers upload.
REMOTE_MODULE = """
import os
import shutil
from pathlib import Path

from airflow.configuration import conf
from airflow.config_templates.airflow_local_settings import DEFAULT_LOGGING_CONFIG as LOGGING_CONFIG

DEFAULT_REMOTE_CONN_ID = os.environ.get("LAB_REMOTE_CONN") or None


class Folder:
    processors = ()

    def upload(self, path, ti=None):
        local = Path(conf.get("logging", "base_log_folder"), path)
        if os.environ["LAB_REMOTE"] == "out of reach":
            raise ConnectionError("the store does not answer")
        remote = Path(os.environ["LAB_REMOTE"], path)
        remote.parent.mkdir(parents=True, exist_ok=True)
        remote.write_bytes(local.read_bytes())
        if conf.getboolean("logging", "delete_local_logs"):
            shutil.rmtree(local.parent)

    def read(self, path, ti):
        return [], None


REMOTE_TASK_LOG = Folder()
"""


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "lab_remote_logging.py").write_text(REMOTE_MODULE)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.setenv("LAB_REMOTE", str(tmp_path / "remote"))
    # [logging] remote_logging itself wants one of the stores that Airflow has providers for.
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_CONFIG_CLASS", "lab_remote_logging.LOGGING_CONFIG")
    monkeypatch.setenv("AIRFLOW__LOGGING__DELETE_LOCAL_LOGS", "True")
    yield from fresh_home(tmp_path, monkeypatch)


async def run_task(lab: Lab) -> bytes:
    """Run a task while the link is so slow that its log comes after it; return the log as the centre has it."""
    assign = task_job("hello")
    job_id = lab.bridge.assign(assign)
    result = await lab.bridge.result(job_id)
    assert (result.exit_code, result.error) == (0, "")
    await lab.whole_log(job_id, result.log_size)
    assert bytes(lab.bridge.logs[job_id]) == lab.local_log(assign.job.log_path)
    return bytes(lab.bridge.logs[job_id])


def test_logs_that_are_uploaded_are_shipped_whole_and_stay_on_the_worker_until_then(tmp_path: Path) -> None:
    async def scenario(lab: Lab) -> None:
        log = await run_task(lab)
        assert b"hello from the edge" in log
        (remote,) = (path for path in (tmp_path / "remote").rglob("*.log"))
        assert log.startswith(remote.read_bytes())
        assert b"hello from the edge" in remote.read_bytes()

    assert play(tmp_path, scenario) is ExitCode.DONE


def test_a_store_that_is_out_of_reach_fails_no_task_and_is_told_of_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_REMOTE", "out of reach")

    async def scenario(lab: Lab) -> None:
        events = [json.loads(line)["event"] for line in (await run_task(lab)).splitlines()]
        assert "hello from the edge" in events
        assert events[-1] == "Failed to upload remote logs"

    play(tmp_path, scenario)


def test_the_store_s_connection_is_fetched_through_the_bridge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAB_REMOTE_CONN", "the_store")
    statuses: list[HTTPStatus] = []

    def answer(request: ApiRequest) -> ApiResponse | None:
        if not request.target.startswith("connections/"):
            return execution_api(request)
        assert request.target == "connections/the_store"
        # Before its start a task may not ask: so does the bridge answer, and so would Airflow.
        started = any(call.target.endswith("/run") for call in asked)
        statuses.append(HTTPStatus.OK if started else HTTPStatus.FORBIDDEN)
        return answer_json(request, statuses[-1], {"conn_id": "the_store", "conn_type": "generic"})

    asked: list[ApiRequest] = []

    def heard(request: ApiRequest) -> ApiResponse | None:
        asked.append(request)
        return answer(request)

    async def scenario(lab: Lab) -> None:
        lab.bridge.api = heard
        assert b"hello from the edge" in await run_task(lab)
        assert statuses == [HTTPStatus.FORBIDDEN, HTTPStatus.OK]

    play(tmp_path, scenario)
