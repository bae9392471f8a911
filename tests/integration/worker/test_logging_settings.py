"""What Airflow's [logging] says of a task's log counts on the edge as it does with any executor: on a real worker."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.worker_lab import task_job

DAG = """
import logging

import structlog
from airflow.sdk import DAG, task
from airflow.sdk.log import mask_secret

with DAG("lab") as dag:

    @task
    def says():
        structlog.get_logger("loud").debug("a detail of loud")
        logging.getLogger("calm").info("a word of calm")
        logging.getLogger("calm").warning("a warning of calm")
        mask_secret("q7Z")
        mask_secret("k9 W/x")
        logging.getLogger("calm").warning("short q7Z short")
        logging.getLogger("calm").warning("quoted k9%20W/x quoted")

    says()
"""
PATH = "dag_id=lab/run_id=r1/task_id=says/attempt=1.log"


@pytest.fixture(autouse=True)
def airflow_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    umask = os.umask(0o022)
    yield from fresh_home(tmp_path, monkeypatch)
    os.umask(umask)


def lines_of_task(tmp_path: Path, cfg: str) -> list[dict[str, Any]]:
    """Run the task with this configuration file; return the lines of its log as the centre has it."""
    (tmp_path / "home" / "dags" / "lab.py").write_text(DAG)
    (tmp_path / "home" / "airflow.cfg").write_text(cfg)
    lines: list[dict[str, Any]] = []

    async def scenario(lab: Lab) -> None:
        job_id = lab.bridge.assign(task_job("says", log_path=PATH))
        result = await lab.bridge.result(job_id)
        assert result.exit_code == 0
        await lab.whole_log(job_id, result.log_size)
        lines.extend(json.loads(line) for line in lab.bridge.logs[job_id].splitlines())

    play(tmp_path, scenario)
    return lines


def events(lines: list[dict[str, Any]]) -> list[str]:
    return [str(line["event"]) for line in lines if line["logger"] in {"loud", "calm"}]


def test_levels_are_as_set_for_all_and_for_some_loggers(tmp_path: Path) -> None:
    lines = lines_of_task(tmp_path, "[logging]\nlogging_level = WARNING\nnamespace_levels = loud=DEBUG\n")
    assert events(lines)[:2] == ["a detail of loud", "a warning of calm"]


def test_lines_have_what_is_set_of_their_place(tmp_path: Path) -> None:
    lines = lines_of_task(tmp_path, "[logging]\ncallsite_parameters = func_name\n")
    (line,) = (line for line in lines if line["event"] == "a word of calm")
    assert line["func_name"] == "says"
    assert "lineno" not in line


def test_secrets_are_masked_as_set(tmp_path: Path) -> None:
    cfg = "[logging]\nmin_length_masked_secret = 3\nsecret_mask_adapter = urllib.parse.quote\n"
    assert events(lines_of_task(tmp_path, cfg))[-2:] == ["short *** short", "quoted *** quoted"]


@pytest.mark.parametrize(
    ("umask", "folder", "file"), [(0o022, 0o775, 0o664), (0o022, 0o750, 0o640), (0o077, 0o777, 0o666)]
)
def test_a_task_s_log_and_its_folders_have_the_modes_that_are_set(
    tmp_path: Path, umask: int, folder: int, file: int
) -> None:
    os.umask(umask)
    new = "file_task_handler_new"
    lines_of_task(
        tmp_path, f"[logging]\n{new}_folder_permissions = {folder:#o}\n{new}_file_permissions = {file:#o}\n"
    )
    base = tmp_path / "home" / "logs"
    modes = {path.relative_to(base): stat.S_IMODE(path.stat().st_mode) for path in (base / "dag_id=lab").rglob("*")}
    assert modes.pop(Path(PATH)) == file
    assert set(modes.values()) == {folder}
    assert stat.S_IMODE((base / "dag_id=lab").stat().st_mode) == folder
