"""Libraries without what they use if it is installed: for a program that has no use for it, and little memory."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import cast


@contextlib.contextmanager
def hide_modules(*modules: str) -> Iterator[None]:
    """Let whatever is imported meanwhile find that these modules are not installed; afterwards they are again.

    An entry of None says so (the import system, "The module cache"). A module that is loaded already stays.
    """
    absent = [name for name in modules if name not in sys.modules]
    sys.modules.update(dict.fromkeys(absent, cast(ModuleType, None)))
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
