"""Old versions of a Dag bundle are deleted on a real worker, those in use are not."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from edge_mqtt.broker_bridge.protocol.messages import Assign
from tests.support.scenario_worker import Lab, fresh_home, play
from tests.support.worker_lab import task_job

#: A bundle whose versions are copies of the Dag folder.
BUNDLE = """
import os
import shutil

from airflow.dag_processing.bundles.base import BaseDagBundle


class CopiedBundle(BaseDagBundle):
    supports_versioning = True

    def initialize(self):
        shutil.copytree(os.path.join(os.environ["AIRFLOW_HOME"], "dags"), self.path, dirs_exist_ok=True)
        super().initialize()

    @property
    def path(self):
        return self.versions_dir / self.version

    def get_current_version(self):
        return self.version

    def refresh(self):
        pass
"""
NAME = "copied"


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the bundle's versions."""
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "lab_bundle.py").write_text(BUNDLE)
    monkeypatch.setenv("PYTHONPATH", str(modules))
    bundles = [{"name": NAME, "classpath": "lab_bundle.CopiedBundle", "kwargs": {}}]
    options = {
        "DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        "DAG_BUNDLE_STORAGE_PATH": str(tmp_path / "bundles"),
        "STALE_BUNDLE_CLEANUP_INTERVAL": "1",
        "STALE_BUNDLE_CLEANUP_AGE_THRESHOLD": "0",
        "STALE_BUNDLE_CLEANUP_MIN_VERSIONS": "1",
    }
    for name, value in options.items():
        monkeypatch.setenv(f"AIRFLOW__DAG_PROCESSOR__{name}", value)
    for _ in fresh_home(tmp_path, monkeypatch):
        yield tmp_path / "bundles" / NAME / "versions"


def of_version(task_id: str, version: str) -> Assign:
    """Return the assignment of a task of one version of the Dag."""
    assign = task_job(task_id)
    workload = {**assign.job.workload, "bundle_info": {"name": NAME, "version": version}}
    return assign.model_copy(update={"job": assign.job.model_copy(update={"workload": workload})})


def there_are(versions: Path) -> set[str]:
    """Return the versions that are on the disk."""
    return {path.name for path in versions.iterdir()}


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds that nothing tells of."""

    def wait() -> None:
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.05)

    await asyncio.to_thread(wait)


def test_old_versions_go_and_those_in_use_stay(versions: Path) -> None:
    async def scenario(lab: Lab) -> None:
        in_use = lab.bridge.assign(of_version("wait_for", "v1"))
        await lab.log_line(in_use, "tick 1")
        for version in ("v2", "v3", "v4"):
            result = await lab.bridge.result(lab.bridge.assign(of_version("hello", version)))
            assert result.exit_code == 0
        # The newest is kept by the rules, the oldest for its task.
        await until(lambda: there_are(versions) == {"v1", "v4"})
        lab.until_file.touch()
        assert (await lab.bridge.result(in_use)).exit_code == 0
        await until(lambda: there_are(versions) == {"v4"})
        # What deletes them is gone then, and has left nothing.
        launcher = psutil.Process(lab.worker._supervisors.launcher._process.process.pid)  # type: ignore[attr-defined]  # a spawned one
        await until(lambda: not launcher.children())

    play(versions.parents[2], scenario)


def test_nothing_is_deleted_when_airflow_s_interval_says_never(
    versions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_INTERVAL", "0")

    async def scenario(lab: Lab) -> None:
        for version in ("v1", "v2", "v3"):
            await lab.bridge.result(lab.bridge.assign(of_version("hello", version)))
        assert there_are(versions) == {"v1", "v2", "v3"}

    play(versions.parents[2], scenario)
