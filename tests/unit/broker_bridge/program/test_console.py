"""Log lines: one line an event, for people or as JSON, always with the fields that were given."""

from __future__ import annotations

import json
import logging
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from edge_mqtt.broker_bridge.program.command import say
from edge_mqtt.broker_bridge.program.console import JSON, TEXT, log_to_stderr

log = logging.getLogger("edge_mqtt.console_test")


@pytest.fixture(autouse=True)
def console() -> Iterator[None]:
    """Leave logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("edge_mqtt")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def text_of(capsys: pytest.CaptureFixture[str]) -> str:
    """Return what was written, without the time of each line."""
    return "\n".join(line.split(maxsplit=2)[2] for line in capsys.readouterr().err.splitlines())


def documents_of(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the objects that were written."""
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_has_the_message_and_the_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO, TEXT)
    log.info("job %s started", 7, extra={"action": "job_started", "job_id": "7"})
    log.warning("no fields")
    assert text_of(capsys) == "INFO    job 7 started [action=job_started job_id=7]\nWARNING no fields"


def test_a_field_is_told_from_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO)
    log.info("lost", extra={"reason": 'the "other" side\nhung up', "empty": "", "path": "/a]=b"})
    assert text_of(capsys) == r'INFO    lost [reason="the \"other\" side\nhung up" empty="" path="/a]=b"]'


def test_a_message_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO)
    log.info("told by a worker: %s", "x\n2026-01-01 00:00:00,000 ERROR forged")
    assert capsys.readouterr().err.count("\n") == 1


def test_our_own_lines_count_from_the_level_on_and_others_from_warning_on(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.DEBUG)
    log.debug("ours")
    logging.getLogger("library").info("not shown")
    logging.getLogger("library").warning("shown")
    assert text_of(capsys) == "DEBUG   ours\nWARNING shown"


def test_json_is_one_object_a_line_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO, JSON)
    log.info("job %s", "ä\nb", extra={"action": "job_started", "job_id": "7", "slots": 2, "at": datetime(2026, 1, 1)})  # noqa: DTZ001
    (document,) = documents_of(capsys)
    age = datetime.now(UTC) - datetime.fromisoformat(document.pop("timestamp"))
    assert abs(age.total_seconds()) < 60
    assert document == {
        "level": "info",
        "logger": "edge_mqtt.console_test",
        "message": "job ä\nb",
        "action": "job_started",
        "job_id": "7",
        "slots": 2,
        "at": "2026-01-01 00:00:00",
    }


def test_json_has_the_exception_in_a_field(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO, JSON)
    try:
        int("spoilt")
    except ValueError:
        log.exception("failed", stack_info=True)
    (document,) = documents_of(capsys)
    assert document["exception"].startswith("Traceback")
    assert document["exception"].endswith("'spoilt'")
    assert "test_console.py" in document["stack"]


def test_a_field_does_not_take_the_place_of_what_every_line_has(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO, JSON)
    log.info("told", extra={"level": "high", "logger": "theirs", "timestamp": "never"})
    (document,) = documents_of(capsys)
    assert (document["level"], document["logger"]) == ("info", "edge_mqtt.console_test")
    assert document["timestamp"] != "never"


def test_an_error_that_ends_a_program_is_in_its_format_too(capsys: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(logging.INFO, JSON)
    say("edge-test", "the disk is full")
    (document,) = documents_of(capsys)
    assert (document["message"], document["program"], document["level"]) == ("the disk is full", "edge-test", "error")


def test_a_terminal_shows_the_fields_too() -> None:
    code = (
        "import logging\n"
        "from edge_mqtt.broker_bridge.program.console import log_to_stderr\n"
        "log_to_stderr(logging.INFO)\n"
        "logging.getLogger('edge_mqtt').info('hello', extra={'action': 'greeted', 'job_id': '7'})\n"
    )
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "dumb", "COLUMNS": "200"}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environ, check=True)
    os.close(theirs)
    line = os.read(ours, 4096).decode()
    os.close(ours)
    assert "hello [action=greeted job_id=7]" in line
