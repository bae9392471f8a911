"""PostgreSQL for chaos: what is missing is said in one line."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from tests.chaos import postgres
from tests.chaos.postgres import PostgresMissing, programs


def test_a_missing_server_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(postgres, "_VERSIONS", tmp_path)
    with pytest.raises(PostgresMissing, match=r"^PostgreSQL is not installed: apt-get install postgresql$"):
        programs()


def test_a_missing_driver_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    find: Callable[[str], ModuleSpec | None] = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "asyncpg" else find(name))
    server = tmp_path / "17" / "bin" / "postgres"
    server.parent.mkdir(parents=True)
    server.touch()
    monkeypatch.setattr(postgres, "_VERSIONS", tmp_path)
    with pytest.raises(PostgresMissing, match=r"^Airflow has no driver for PostgreSQL: pip install .*asyncpg$"):
        programs()


def test_the_newest_server_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for version in ("9.6", "15", "17"):
        server = tmp_path / version / "bin" / "postgres"
        server.parent.mkdir(parents=True)
        server.touch()
    monkeypatch.setattr(postgres, "_VERSIONS", tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: ModuleSpec("found", None))
    assert programs() == tmp_path / "17" / "bin"
