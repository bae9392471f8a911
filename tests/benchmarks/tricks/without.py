"""``edge-worker`` with some of its tricks switched off: ``python -P without.py rehearsal,apart start --bridge …``.

A trick's module gets a stand-in before it is imported. The worker itself has no option for that.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging.config
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final

HIDDEN: Final = "edge_mqtt.worker.launcher.hidden_modules"
SHORTCUTS: Final = "edge_mqtt.worker.launcher.airflow_patches"


def stand_in(name: str, **members: Any) -> None:
    """Let whoever imports a module get one with these members only.

    :raises LookupError: there is no such module, and nothing would be switched off.
    """
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise LookupError(name)
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def other_shortcuts(change: Callable[[Any], None]) -> None:
    """Let ``change`` be called with the module of the shortcuts when they are to be taken."""

    def take() -> None:
        sys.modules.pop(SHORTCUTS, None)
        change(importlib.import_module(SHORTCUTS))

    stand_in(SHORTCUTS, take=take)


def no_rehearsal() -> None:
    """Let every task build for itself what its first step builds."""
    stand_in("edge_mqtt.worker.launcher.warm_up", rehearse=lambda: None)


def no_large_pages() -> None:
    """Leave memory in the pages that it lies in."""
    stand_in("edge_mqtt.worker.launcher.large_pages", use_large_pages=lambda: 0)


def no_left_out(*shown: str) -> None:
    """Let libraries load these modules if they find them; without any, whatever they find."""
    real = importlib.import_module(HIDDEN).left_out

    def left_out(*modules: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if not shown or set(modules) & set(shown) else real(*modules)

    stand_in(HIDDEN, left_out=left_out)


def no_apart() -> None:
    """Read the certificates in the worker's own process, before the launcher is forked from it."""

    def load(directory: Path) -> object:
        from edge_mqtt.certs.loading import load_credentials

        return load_credentials(directory)

    stand_in("edge_mqtt.certs.forked_loading", load_credentials_forked=load)


def no_quick_dict_config() -> None:
    """Keep the standard library's dictConfig."""

    def take(shortcuts: Any) -> None:
        plain = logging.config.dictConfig
        shortcuts.take()
        vars(logging.config)["dictConfig"] = plain

    other_shortcuts(take)


def no_shared_adapters() -> None:
    """Let every task build its own TypeAdapters."""

    def take(shortcuts: Any) -> None:
        vars(logging.config)["dictConfig"] = shortcuts.QuickDictConfig(logging.config.dictConfig)

    other_shortcuts(take)


def no_json_adapter() -> None:
    """Share the TypeAdapter of the messages to a task, but not that of its rendered fields."""

    def take(shortcuts: Any) -> None:
        from airflow.sdk.execution_time import task_runner

        plain = vars(task_runner)["TypeAdapter"]
        shortcuts.take()
        vars(task_runner)["TypeAdapter"] = plain

    other_shortcuts(take)


def no_shortcuts() -> None:
    """Take no shortcut."""
    other_shortcuts(lambda _shortcuts: None)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "rehearsal": no_rehearsal,
    "large_pages": no_large_pages,
    "QuickDictConfig": no_quick_dict_config,
    "SharedAdapters": no_shared_adapters,
    "SharedAdapters: JsonValue": no_json_adapter,
    "shortcuts": no_shortcuts,
    "left_out": no_left_out,
    "left_out: rich": partial(no_left_out, "rich"),
    "left_out: dns": partial(no_left_out, "dns"),
    "apart": no_apart,
}


def main() -> None:
    """Switch off what the first argument names, and be edge-worker with the others."""
    for name in filter(None, sys.argv.pop(1).split(",")):
        SWITCHES[name]()
    from edge_mqtt.worker.cli import main as edge_worker

    edge_worker()


if __name__ == "__main__":
    main()
