"""What Airflow and the logging module do again for every task although it comes to the same: done before the fork.

Each patch replaces a name that Airflow looks up when it needs it. Where an Airflow has no such name, the task does
the work itself, as it would without us.
"""

from __future__ import annotations

import logging
import logging.config
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from pydantic import TypeAdapter


def apply_patches() -> None:
    """Apply every patch to this process and those forked from it."""
    from edge_mqtt.worker.supervisor.airflow_internals import replace_type_adapter

    replace_type_adapter(SharedAdapters())
    vars(logging.config)["dictConfig"] = QuickDictConfig(logging.config.dictConfig)


class SharedAdapters:
    """Stands for pydantic's ``TypeAdapter``, whose objects do not change: one for each type is enough.

    A task builds three, of which that of all messages to it takes 5 ms of CPU (``CommsDecoder`` in airflow.sdk
    execution_time/comms.py, ``_serialize_rendered_fields`` in task_runner.py).
    """

    def __init__(self) -> None:
        self._of = cache(TypeAdapter)

    def __call__(self, kind: Any) -> TypeAdapter[Any]:
        """Return the adapter of a type."""
        try:
            return self._of(kind)
        except TypeError:
            return TypeAdapter(kind)  # Not every type can be looked up by its hash.

    def __getitem__(self, kind: Any) -> Any:
        """Be a generic, for annotations."""
        return TypeAdapter[kind]


class QuickDictConfig:
    """Stands for ``logging.config.dictConfig`` in Airflow's own two calls, and spares the second most loggers.

    Airflow configures logging in the launcher and again in the task, alike as far as loggers are concerned. Each
    time all 200 of them are gone through, some 70 times: 10 ms of CPU, and a page of memory for every one.
    From then on the standard library's own function is in its place again: what comes next is the Dag's.
    """

    def __init__(self, configure: Callable[[dict[str, Any]], None]) -> None:
        self._configure = configure
        self._calls = 0
        self._launchers: object = None

    def __call__(self, config: dict[str, Any]) -> None:
        """Configure."""
        settings = {key: config.get(key) for key in ("loggers", "root", "disable_existing_loggers", "incremental")}
        self._calls += 1
        if self._calls == 1:
            self._launchers = settings
        else:
            vars(logging.config)["dictConfig"] = self._configure
        # Who imported this function by its name in the launcher calls it again.
        if self._calls == 2 and settings == self._launchers:
            self._configure_only(config)
        else:
            self._configure(config)

    def _configure_only(self, config: dict[str, Any]) -> None:
        manager = logging.root.manager
        known = manager.loggerDict
        manager.loggerDict = _SomeLoggers(known, config["loggers"] or ())
        try:
            self._configure(config)
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
