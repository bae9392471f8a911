"""What is done once for all tasks must come to the same as what Airflow does for each."""

from __future__ import annotations

import io
import logging
import logging.config
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from pydantic import Field, TypeAdapter

from edge_mqtt.worker.launcher.airflow_patches import QuickDictConfig, SharedAdapters

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
    configure = QuickDictConfig(logging.config.dictConfig)
    first, second = io.StringIO(), io.StringIO()
    configure(to_stream(first))
    assert say(first) == WARNINGS
    configure(to_stream(second))
    assert say(second) == WARNINGS
    assert first.getvalue().splitlines() == WARNINGS


def test_second_equal_configuration_looks_at_no_other_logger_and_forgets_none() -> None:
    seen: list[set[str]] = []
    plain = logging.config.dictConfig

    def configure(config: dict[str, Any]) -> None:
        seen.append(set(logging.root.manager.loggerDict))
        plain(config)

    quick = QuickDictConfig(configure)
    child = logging.getLogger("shortcut.child")
    for _ in range(2):
        quick(to_stream(io.StringIO()))
    assert "shortcut.child" in seen[0]
    assert seen[1] == {"shortcut"}
    assert logging.root.manager.loggerDict["shortcut.child"] is child


def test_logger_made_for_a_handlers_sake_finds_its_parent_which_stays_the_same() -> None:
    configure = QuickDictConfig(logging.config.dictConfig)
    parent = logging.getLogger("shortcut_parent")
    made: list[logging.Logger] = []

    def handler() -> logging.Handler:
        made.append(logging.getLogger(f"shortcut_parent.made_{len(made)}"))
        return logging.NullHandler()

    configure(to_stream(io.StringIO()))
    configure({**to_stream(io.StringIO()), "handlers": {"default": {"()": handler}}})
    assert logging.getLogger("shortcut_parent") is parent
    assert [logger.parent for logger in made] == [parent]
    assert logging.getLogger("shortcut_parent.made_0") is made[0]


def test_other_configuration_is_no_shortcut() -> None:
    configure = QuickDictConfig(logging.config.dictConfig)
    stream = io.StringIO()
    configure(to_stream(stream))
    logging.getLogger("shortcut.child").setLevel(logging.ERROR)
    configure(to_stream(stream, level="INFO"))
    assert say(stream) == [line for name in NAMES for line in (f"{name} informs", f"{name} warns")]


def test_configuration_after_the_second_is_no_shortcut() -> None:
    configure = QuickDictConfig(logging.config.dictConfig)
    stream = io.StringIO()
    for _ in range(2):
        configure(to_stream(stream))
    logging.getLogger("shortcut.child").setLevel(logging.ERROR)  # User code may have been here.
    configure(to_stream(stream))
    assert say(stream) == WARNINGS


def test_dag_finds_the_standard_librarys_own_function() -> None:
    plain = logging.config.dictConfig
    logging.config.dictConfig = QuickDictConfig(plain)  # type: ignore[assignment]  # as in the launcher
    for _ in range(2):
        logging.config.dictConfig(to_stream(io.StringIO()))
    assert logging.config.dictConfig is plain


def test_function_that_was_imported_by_name_in_the_launcher_works_like_the_standard_librarys() -> None:
    configure = QuickDictConfig(logging.config.dictConfig)
    for _ in range(2):
        configure(to_stream(io.StringIO()))
    without_loggers = {name: value for name, value in to_stream(io.StringIO()).items() if name != "loggers"}
    for _ in range(4):
        configure(without_loggers)
        configure({"version": 1, "incremental": True})
    strict = {**to_stream(io.StringIO()), "disable_existing_loggers": True}
    strangers = [logging.getLogger(f"shortcut_stranger_{number}") for number in range(4)]
    for stranger in strangers:
        stranger.disabled = False
        configure(strict)
    assert all(stranger.disabled for stranger in strangers)


def test_failed_configuration_forgets_no_logger() -> None:
    configure = QuickDictConfig(logging.config.dictConfig)
    configure(to_stream(io.StringIO()))
    logger = logging.getLogger("shortcut.other")
    broken = {**to_stream(io.StringIO()), "handlers": {"default": {"class": "no.such.Handler"}}}
    with pytest.raises(ValueError, match="handler"):
        configure(broken)
    assert logging.root.manager.loggerDict["shortcut.other"] is logger


def test_adapter_of_a_type_is_made_once() -> None:
    adapters = SharedAdapters()
    assert adapters(int | str) is adapters(int | str)
    assert adapters(int | str).validate_python("x") == "x"


def test_adapter_of_what_cannot_be_looked_up_is_made_each_time() -> None:
    unhashable = Annotated[int, Field(gt=1), []]
    assert SharedAdapters()(unhashable).validate_python(2) == 2


def test_shared_adapters_can_stand_in_annotations() -> None:
    assert SharedAdapters()[int] == TypeAdapter[int]
