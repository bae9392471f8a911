"""What is done once for all tasks must come to the same as what Airflow does for each."""

from __future__ import annotations

import io
import logging
import logging.config
from collections.abc import Iterator
from typing import Any

import pytest

from edge_mqtt.worker.launcher.logging_shortcut import LoggingShortcut

NAMES = ("shortcut", "shortcut.child", "shortcut.other")


@pytest.fixture(autouse=True)
def loggers() -> Iterator[None]:
    """Leave the loggers of this process as they were."""
    root = logging.getLogger()
    handlers, level, plain = root.handlers[:], root.level, logging.config.dictConfig
    all_loggers = [each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    enabled = [each for each in all_loggers if not each.disabled]
    yield
    logging.config.dictConfig = plain
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in NAMES:
        logging.getLogger(name).setLevel(logging.NOTSET)
    for each in enabled:
        each.disabled = False


def to_stream(stream: io.StringIO, level: str = "WARNING") -> dict[str, Any]:
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"default": {"class": "logging.StreamHandler", "stream": stream}},
        "loggers": {"shortcut": {"level": level}},
        "root": {"handlers": ["default"], "level": "INFO"},
    }


def say(stream: io.StringIO) -> list[str]:
    """Let every logger say something on two levels; return what came out."""
    start = len(stream.getvalue())
    for name in NAMES:
        logging.getLogger(name).info("%s informs", name)
        logging.getLogger(name).warning("%s warns", name)
    return stream.getvalue()[start:].splitlines()


WARNINGS = [f"{name} warns" for name in NAMES]


def test_second_equal_configuration_changes_where_lines_go_and_not_which() -> None:
    shortcut = LoggingShortcut()
    first, second = io.StringIO(), io.StringIO()
    with shortcut.recorded():
        logging.config.dictConfig(to_stream(first))
    assert say(first) == WARNINGS
    with shortcut.taken():
        logging.config.dictConfig(to_stream(second))
    assert say(second) == WARNINGS
    assert first.getvalue().splitlines() == WARNINGS


def test_second_equal_configuration_looks_at_no_other_logger_and_forgets_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[set[str]] = []
    plain = logging.config.dictConfig

    def configure(config: dict[str, Any]) -> None:
        seen.append(set(logging.root.manager.loggerDict))
        plain(config)

    monkeypatch.setattr(logging.config, "dictConfig", configure)
    shortcut = LoggingShortcut()
    child = logging.getLogger("shortcut.child")
    for meanwhile in (shortcut.recorded(), shortcut.taken()):
        with meanwhile:
            logging.config.dictConfig(to_stream(io.StringIO()))
    assert "shortcut.child" in seen[0]
    assert seen[1] == {"shortcut"}
    assert logging.root.manager.loggerDict["shortcut.child"] is child


def recorded(config: dict[str, Any]) -> LoggingShortcut:
    """Return what has seen a first configuration."""
    shortcut = LoggingShortcut()
    with shortcut.recorded():
        logging.config.dictConfig(config)
    return shortcut


def test_logger_made_for_a_handlers_sake_finds_its_parent_which_stays_the_same() -> None:
    parent = logging.getLogger("shortcut_parent")
    made: list[logging.Logger] = []

    def handler() -> logging.Handler:
        made.append(logging.getLogger(f"shortcut_parent.made_{len(made)}"))
        return logging.NullHandler()

    with recorded(to_stream(io.StringIO())).taken():
        logging.config.dictConfig({**to_stream(io.StringIO()), "handlers": {"default": {"()": handler}}})
    assert logging.getLogger("shortcut_parent") is parent
    assert [logger.parent for logger in made] == [parent]
    assert logging.getLogger("shortcut_parent.made_0") is made[0]


def test_other_configuration_is_no_shortcut() -> None:
    stream = io.StringIO()
    shortcut = recorded(to_stream(stream))
    logging.getLogger("shortcut.child").setLevel(logging.ERROR)
    with shortcut.taken():
        logging.config.dictConfig(to_stream(stream, level="INFO"))
    assert say(stream) == [line for name in NAMES for line in (f"{name} informs", f"{name} warns")]


def test_nothing_is_replaced_but_while_airflow_s_own_call_goes_on() -> None:
    plain = logging.config.dictConfig
    shortcut = recorded(to_stream(io.StringIO()))
    assert logging.config.dictConfig is plain
    broken = {**to_stream(io.StringIO()), "handlers": {"default": {"class": "no.such.Handler"}}}
    with pytest.raises(ValueError, match="handler"), shortcut.taken():
        logging.config.dictConfig(broken)
    assert logging.config.dictConfig is plain


def test_failed_configuration_forgets_no_logger() -> None:
    shortcut = recorded(to_stream(io.StringIO()))
    logger = logging.getLogger("shortcut.other")
    broken = {**to_stream(io.StringIO()), "handlers": {"default": {"class": "no.such.Handler"}}}
    with pytest.raises(ValueError, match="handler"), shortcut.taken():
        logging.config.dictConfig(broken)
    assert logging.root.manager.loggerDict["shortcut.other"] is logger


def test_configuration_without_loggers_can_be_taken_again() -> None:
    incremental = {"version": 1, "incremental": True}
    with recorded(incremental).taken():
        logging.config.dictConfig(incremental)
