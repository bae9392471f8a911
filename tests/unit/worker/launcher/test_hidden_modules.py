"""A library that is left out is not there for those who would use it, and there for everybody else."""

from __future__ import annotations

import importlib
import sys

import pytest

from edge_mqtt.worker.launcher.hidden_modules import left_out

#: A module that is in every Python and that nothing here has any use for.
MODULE = "this"


@pytest.fixture(autouse=True)
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, MODULE, raising=False)


def test_library_that_is_left_out_cannot_be_imported() -> None:
    with left_out(MODULE), pytest.raises(ModuleNotFoundError):
        importlib.import_module(MODULE)


def test_library_that_was_left_out_can_be_imported_afterwards() -> None:
    with left_out(MODULE):
        pass
    assert importlib.import_module(MODULE) is sys.modules[MODULE]


def test_library_is_there_again_after_a_failure() -> None:
    with pytest.raises(ZeroDivisionError), left_out(MODULE):
        raise ZeroDivisionError
    assert importlib.import_module(MODULE)


def test_library_that_is_loaded_stays() -> None:
    with left_out("sys", "importlib"):
        assert importlib.import_module("importlib") is importlib
    assert sys.modules["sys"] is sys
