"""``edge-worker`` with some tricks switched off: ``python -P without.py warm_up,large_pages start --bridge …``.

A trick's module gets a stand-in before it is imported. The worker itself has no option for that.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, Final

HIDDEN: Final = "edge_mqtt.worker.launcher.hidden_modules"


def stand_in(name: str, **members: Any) -> None:
    """Let whoever imports a module get one with these members only.

    :raises LookupError: there is no such module, and nothing would be switched off.
    """
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise LookupError(name)
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


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


def no_logging_shortcut() -> None:
    """Let every task configure logging as Airflow does."""
    stand_in("edge_mqtt.worker.launcher.logging_shortcut", SHORTCUT=_NoShortcut())


class _NoShortcut:
    """A shortcut that is none."""

    def recorded(self) -> contextlib.AbstractContextManager[None]:
        """Take no note."""
        return contextlib.nullcontext()

    def taken(self) -> contextlib.AbstractContextManager[None]:
        """Take the long way."""
        return contextlib.nullcontext()


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "warm_up": no_warm_up,
    "large_pages": no_large_pages,
    "logging_shortcut": no_logging_shortcut,
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
