"""A module that is hidden is not there for whatever is imported meanwhile, and is there afterwards."""

from __future__ import annotations

import importlib
import sys

import pytest

from edge_mqtt.worker.launcher.hidden_modules import hide_modules

#: A module that is in every Python and that nothing here has any use for.
MODULE = "this"


@pytest.fixture(autouse=True)
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_module_that_is_hidden_cannot_be_imported() -> None:
    with hide_modules(MODULE), pytest.raises(ModuleNotFoundError):
        importlib.import_module(MODULE)


def test_module_that_was_hidden_can_be_imported_afterwards() -> None:
    with hide_modules(MODULE):
        pass
    assert importlib.import_module(MODULE) is sys.modules[MODULE]


def test_library_is_there_again_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), hide_modules(MODULE):
        raise ZeroDivisionError
    assert importlib.import_module(MODULE)


def test_library_that_is_loaded_stays() -> None:
    with hide_modules("sys", "importlib"):
        assert importlib.import_module("importlib") is importlib
    assert sys.modules["sys"] is sys
