"""What calls itself pure is held to it by import-linter, and what import-linter holds to it says so."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("broker_bridge", "certs", "executor", "worker")
#: What a module's docstring promises its reader.
CLAIM = re.compile(r"\bPure[.:]|\b[Nn]o I/O\b")


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("edge_mqtt", *parts)).removesuffix(".__init__")


def claims(path: Path) -> bool:
    return CLAIM.search(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") is not None


def claiming() -> set[str]:
    return {module_of(path) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py") if claims(path)}


def listed() -> set[str]:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (pure,) = [each for each in contracts["contracts"] if each["name"] == "Decisions are pure"]
    return set(pure["source_modules"])


def test_every_module_that_calls_itself_pure_is_held_to_it() -> None:
    inside = {name for name in claiming() if any(name.startswith(f"{package}.") for package in listed())}
    assert claiming() - inside == listed()


@pytest.mark.parametrize(
    "text", ["Splits a stream. Pure.", "Pure: time is passed in.", "Decisions. No I/O, no clock."]
)
def test_a_claim_is_seen(text: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(f'"""{text}"""\n')
    assert claims(path)


def test_a_module_that_speaks_of_pure_functions_claims_nothing(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""A table and one pure function."""\n')
    assert not claims(path)
