"""The warm-up must be possible with this Airflow, leave nothing behind, and never be in the way."""

from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path

import pytest

DESCRIPTORS = Path("/proc/self/fd")

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow is imported here for the first time, perhaps: with files of its own."""
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.step for record in caplog.records if getattr(record, "action", "") == "warm_up_failed"]  # type: ignore[attr-defined]  # from extra


def test_every_step_is_possible_with_this_airflow(caplog: pytest.LogCaptureFixture) -> None:
    from edge_mqtt.worker.launcher.warm_up import warm_up_caches

    warm_up_caches()
    assert failures(caplog) == []


def test_warm_up_leaves_no_dag_thread_or_file() -> None:
    from airflow.sdk import DAG
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    from edge_mqtt.worker.launcher.warm_up import warm_up_caches

    warm_up_caches()
    before = (threading.active_count(), len(list(DESCRIPTORS.iterdir())))
    warm_up_caches()
    gc.collect()
    assert (threading.active_count(), len(list(DESCRIPTORS.iterdir()))) == before
    assert DagContext.get_current() is None
    assert not DagContext.autoregistered_dags
    assert not [each for each in gc.get_objects() if type(each) is DAG and each.dag_id == "warm_up"]


def test_step_that_fails_is_noted_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from edge_mqtt.worker.launcher import warm_up

    monkeypatch.setitem(sys.modules, "msgspec", None)
    warm_up.warm_up_caches()
    assert failures(caplog) == ["_build_frame_decoders"]
