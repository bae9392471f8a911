"""Every option of Airflow's [logging] is honoured, which a test shows, or the documentation says why it is not."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from airflow.configuration import retrieve_configuration_description

from tests.architecture.test_failure_table import ROOT, TEST, names_in


def rows() -> list[list[str]]:
    """Return the cells of the table's rows."""
    page = (ROOT / "docs" / "edge-logs.md").read_text()
    section = page.partition("\n## Airflow's `[logging]`, option by option\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def options_in(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def test_the_table_has_every_option_of_this_airflow_once() -> None:
    known = retrieve_configuration_description(include_providers=False)["logging"]["options"]
    assert Counter(option for cells in rows() for option in options_in(cells[0])) == Counter(list(known))


@pytest.mark.parametrize("cells", rows(), ids=lambda cells: options_in(cells[0])[0])
def test_an_option_is_shown_to_be_honoured_or_said_not_to_be_read(cells: list[str]) -> None:
    what, shown_by = cells[1:]
    tests = TEST.findall(shown_by)
    assert tests or what.startswith("Not read: ")
    assert [f"{path}::{name}" for path, name in tests if name not in names_in(path)] == []
