"""Names in [edge_mqtt] that no program reads are named, with the one that was meant."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.settings.unknown import unknown_settings, warn_of_unknown_settings


def home(folder: Path, text: str, **environ: str) -> dict[str, str]:
    """Return the environment of a program whose airflow.cfg has ``text``."""
    (folder / "airflow.cfg").write_text(text, encoding="utf-8")
    return {"AIRFLOW_HOME": str(folder), **environ}


def test_a_slip_in_the_file_is_named_with_what_was_meant(tmp_path: Path) -> None:
    environ = home(tmp_path, "[edge_mqtt]\nworker_queue = press\nworker_certs = /certs\n")
    (line,) = unknown_settings(environ)
    assert line == (
        f"[edge_mqtt] worker_queue (from {tmp_path}/airflow.cfg) is no setting, it changes nothing: "
        "did you mean worker_queues?"
    )


def test_a_slip_in_a_variable_is_named(tmp_path: Path) -> None:
    environ = home(tmp_path, "", AIRFLOW__EDGE_MQTT__XYZZY="1", AIRFLOW__EDGE_MQTT__KEEP_ALIVE="5")
    (line,) = unknown_settings(environ)
    assert line == (
        "[edge_mqtt] xyzzy (from AIRFLOW__EDGE_MQTT__XYZZY) is no setting, it changes nothing: "
        "docs/configuration.md has the names"
    )


@pytest.mark.parametrize("end", ["", "_CMD", "_SECRET"])
def test_where_airflow_is_told_to_look_for_a_value_is_no_slip(tmp_path: Path, end: str) -> None:
    text = f"[DEFAULT]\nanything = 1\n[edge_mqtt]\nledger_url{end.lower()} = pass ledger\n"
    environ = home(tmp_path, text, **{f"AIRFLOW__EDGE_MQTT__LEDGER_URL{end}": "pass ledger"})
    assert unknown_settings(environ) == ()


@pytest.mark.parametrize("text", ["[edge_mqtt", "[core]\nparallelism = 1\n"])
def test_a_file_without_our_section_has_no_slip(tmp_path: Path, text: str) -> None:
    assert unknown_settings(home(tmp_path, text)) == ()
    assert unknown_settings({"AIRFLOW_HOME": str(tmp_path / "nowhere")}) == ()


def test_each_slip_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    environ = home(tmp_path, "[edge_mqtt]\nworker_queue = press\nkeepalive = 5\n")
    with caplog.at_level(logging.WARNING):
        warn_of_unknown_settings(logging.getLogger("edge_mqtt.test"), environ)
    assert [record.action for record in caplog.records] == ["setting_unknown"] * 2  # type: ignore[attr-defined]
