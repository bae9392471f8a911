"""What failures.md and field-reports.md promise, a test shows: every row names tests, and all of these exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


def rows(page: str) -> list[list[str]]:
    """Return the cells of every row of every table on a page, without the headings."""
    lines = [line for line in (ROOT / "docs" / page).read_text().splitlines() if line.startswith("|")]
    rules = {number for number, line in enumerate(lines) if line.startswith("|---")}
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for number, line in enumerate(lines)
        if number not in rules and number + 1 not in rules
    ]


@cache
def names_in(path: str) -> frozenset[str]:
    """Return the names of the functions of a file below ``tests``."""
    file = ROOT / "tests" / path
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module(body=[], type_ignores=[])
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, functions))


@pytest.mark.parametrize(
    "cells",
    rows("failures.md") + rows("field-reports.md"),
    ids=lambda cells: re.sub(r"\W+", "-", cells[0]).strip("-").lower(),
)
def test_every_row_is_complete_and_names_the_tests_that_show_it(cells: list[str]) -> None:
    assert len(cells) == 4
    assert all(cells)
    named = TEST.findall(cells[3])
    assert named, "no test is named"
    assert [f"{path}::{name}" for path, name in named if name not in names_in(path)] == []
