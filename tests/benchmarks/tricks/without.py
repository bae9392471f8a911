"""``edge-worker`` with some tricks switched off: ``python -P without.py warm_up,large_pages start --bridge …``.

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
from types import ModuleType
from typing import Any, Final

HIDDEN: Final = "edge_mqtt.worker.launcher.hidden_modules"
PATCHES: Final = "edge_mqtt.worker.launcher.airflow_patches"


def stand_in(name: str, **members: Any) -> None:
    """Let whoever imports a module get one with these members only.

    :raises LookupError: there is no such module, and nothing would be switched off.
    """
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise LookupError(name)
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def other_patches(change: Callable[[Any], None]) -> None:
    """Let ``change`` be called with the module of the patches when they are to be applied."""

    def apply_patches() -> None:
        sys.modules.pop(PATCHES, None)
        change(importlib.import_module(PATCHES))

    stand_in(PATCHES, apply_patches=apply_patches)


def no_warm_up() -> None:
    """Let every task build for itself what its first step builds."""
    stand_in("edge_mqtt.worker.launcher.warm_up", warm_up_caches=lambda: None)


def no_large_pages() -> None:
    """Leave memory in the pages that it lies in."""
    stand_in("edge_mqtt.worker.launcher.large_pages", use_large_pages=lambda: 0)


def no_hidden_modules(*shown: str) -> None:
    """Let libraries load these modules if they find them; without any, whatever they find."""
    real = importlib.import_module(HIDDEN).hide_modules

    def hide_modules(*modules: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if not shown or set(modules) & set(shown) else real(*modules)

    stand_in(HIDDEN, hide_modules=hide_modules)


def no_quick_dict_config() -> None:
    """Keep the standard library's dictConfig."""

    def change(patches: Any) -> None:
        plain = logging.config.dictConfig
        patches.apply_patches()
        vars(logging.config)["dictConfig"] = plain

    other_patches(change)


def no_shared_adapters() -> None:
    """Let every task build its own TypeAdapters."""

    def change(patches: Any) -> None:
        vars(logging.config)["dictConfig"] = patches.QuickDictConfig(logging.config.dictConfig)

    other_patches(change)


def no_json_adapter() -> None:
    """Share the TypeAdapter of the messages to a task, but not that of its rendered fields."""

    def change(patches: Any) -> None:
        from airflow.sdk.execution_time import task_runner

        plain = vars(task_runner)["TypeAdapter"]
        patches.apply_patches()
        vars(task_runner)["TypeAdapter"] = plain

    other_patches(change)


def no_patches() -> None:
    """Apply no patch."""
    other_patches(lambda _patches: None)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "warm_up": no_warm_up,
    "large_pages": no_large_pages,
    "QuickDictConfig": no_quick_dict_config,
    "SharedAdapters": no_shared_adapters,
    "SharedAdapters: JsonValue": no_json_adapter,
    "airflow_patches": no_patches,
    "hidden_modules": no_hidden_modules,
    "hidden_modules: rich": partial(no_hidden_modules, "rich"),
    "hidden_modules: dns": partial(no_hidden_modules, "dns"),
}


def main() -> None:
    """Switch off what the first argument names, and be edge-worker with the others."""
    for name in filter(None, sys.argv.pop(1).split(",")):
        SWITCHES[name]()
    from edge_mqtt.worker.cli import main as edge_worker

    edge_worker()


if __name__ == "__main__":
    main()
