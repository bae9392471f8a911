"""A rehearsal must be possible with this Airflow, leave nothing behind, and never be in the way."""

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
    return [record.act for record in caplog.records if getattr(record, "action", "") == "rehearsal_failed"]  # type: ignore[attr-defined]  # from extra


def test_every_act_is_possible_with_this_airflow(caplog: pytest.LogCaptureFixture) -> None:
    from edge_mqtt.worker.launcher.warm_up import rehearse

    rehearse()
    assert failures(caplog) == []


def test_rehearsal_leaves_no_dag_thread_or_file() -> None:
    from airflow.sdk import DAG
    from airflow.sdk.definitions._internal.contextmanager import DagContext

    from edge_mqtt.worker.launcher.warm_up import rehearse

    rehearse()
    before = (threading.active_count(), len(list(DESCRIPTORS.iterdir())))
    rehearse()
    gc.collect()
    assert (threading.active_count(), len(list(DESCRIPTORS.iterdir()))) == before
    assert DagContext.get_current() is None
    assert not DagContext.autoregistered_dags
    assert not [each for each in gc.get_objects() if type(each) is DAG and each.dag_id == "rehearsal"]


def test_act_that_fails_is_noted_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from edge_mqtt.worker.launcher import warm_up

    monkeypatch.setitem(sys.modules, "msgspec", None)
    warm_up.rehearse()
    assert failures(caplog) == ["_frames"]
