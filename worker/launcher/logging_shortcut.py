"""Airflow's second configuration of logging, that of a task, without what the first has done already.

Airflow configures logging in the launcher and again in the task, alike as far as loggers are concerned. Each time all
200 of them are gone through, some 70 times: 10 ms of CPU, and a page of memory for every one.
"""

from __future__ import annotations

import contextlib
import logging
import logging.config
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final


class LoggingShortcut:
    """Stands for ``logging.config.dictConfig`` while Airflow's own call goes on, and at no other time.

    Whoever imports that function by its name gets the standard library's own: nothing is imported for the first time
    while it is replaced.
    """

    def __init__(self) -> None:
        self._known: dict[str, Any] | None = None

    @contextlib.contextmanager
    def recorded(self) -> Iterator[None]:
        """Take note of the configuration that is made meanwhile."""
        plain = logging.config.dictConfig

        def record(config: dict[str, Any]) -> None:
            plain(config)
            self._known = _loggers_of(config)

        with _in_its_place(record):
            yield

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Let a configuration that is made meanwhile go through no other loggers than those that it names.

        One that is not alike is made as ever.
        """
        plain = logging.config.dictConfig

        def configure(config: dict[str, Any]) -> None:
            if self._known is not None and _loggers_of(config) == self._known:
                _configure_only(plain, config)
            else:
                plain(config)

        with _in_its_place(configure):
            yield


#: What the launcher notes, and its tasks go by.
SHORTCUT: Final = LoggingShortcut()


def _loggers_of(config: dict[str, Any]) -> dict[str, Any]:
    return {key: config.get(key) for key in ("loggers", "root", "disable_existing_loggers", "incremental")}


@contextlib.contextmanager
def _in_its_place(function: Callable[[dict[str, Any]], None]) -> Iterator[None]:
    plain = logging.config.dictConfig
    vars(logging.config)["dictConfig"] = function
    try:
        yield
    finally:
        vars(logging.config)["dictConfig"] = plain


def _configure_only(configure: Callable[[dict[str, Any]], None], config: dict[str, Any]) -> None:
    manager = logging.root.manager
    known = manager.loggerDict
    manager.loggerDict = _SomeLoggers(known, config.get("loggers") or ())
    try:
        configure(config)
    finally:
        manager.loggerDict = known


class _SomeLoggers(dict[str, Any]):
    """All loggers, of which a loop over them meets only some.

    Whatever is imported for a handler's sake may ask for any logger meanwhile, and make new ones.
    """

    def __init__(self, known: dict[str, Any], names: Iterable[str]) -> None:
        super().__init__({name: known[name] for name in names if name in known})
        self._known = known

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __missing__(self, name: str) -> Any:
        return self._known[name]

    def __setitem__(self, name: str, logger: Any) -> None:
        self._known[name] = logger
        super().__setitem__(name, logger)
