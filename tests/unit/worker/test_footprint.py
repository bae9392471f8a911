"""Looking at a launcher leaves its memory as it is: what is touched there has to be copied."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from edge_mqtt.worker.core.imports import NEVER
from edge_mqtt.worker.launcher.learned_trial import Footprint


class Modules(dict[str, object]):
    """Can be asked for a module, and must not be gone through: there are thousands, each on a page of its own."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("all modules are gone through")


def test_footprint_asks_for_some_modules_and_goes_through_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "modules", Modules({**sys.modules, NEVER[0]: sys}))
    footprint = Footprint.of_this_process()
    monkeypatch.undo()
    assert NEVER[0] in footprint.libraries
