"""Tables on the terminal and in the generated parts of ``docs/benchmarks.md``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from tests.benchmarks.metrics import Raw, Target

#: Where pictures and raw figures are put.
PICTURES: Final = Path(__file__).parents[2] / "docs" / "benchmarks"
_PAGE: Final = PICTURES.with_suffix(".md")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sheet:
    """A table."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def target_sheet(title: str, targets: Sequence[Target], figures: Mapping[str, Raw]) -> Sheet:
    """Return which targets are reached."""
    rows = []
    for target in targets:
        value = target.measure(figures)
        of_bound, of_value = target.digits
        sign = "≥" if target.more_is_better else "≤"
        bounds = (f"{sign} {bound:,.{of_bound}f}" for bound in (target.at_least, target.aim))
        shown = "-" if value is None else f"{value:,.{of_value}f} {target.unit}".strip()
        rows.append((target.title, *bounds, shown, target.verdict(figures)))
    return Sheet(title=title, columns=("", "at least", "aim", "measured", "verdict"), rows=tuple(rows))


def show(console: Console, machine: Mapping[str, str], sheets: Sequence[Sheet]) -> None:
    """Print everything."""
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()))
    for sheet in sheets:
        table = Table(*sheet.columns, title=sheet.title)
        for row in sheet.rows:
            table.add_row(*row)
        console.print(table)


def markdown(machine: Mapping[str, str], sheets: Sequence[Sheet]) -> str:
    """Return everything for the page."""
    lines = [f"Measured {machine['measured']}: {machine['machine']}, {machine['system']}."]
    versions = [f"{name} {value}" for name, value in machine.items() if name not in {"measured", "machine", "system"}]
    lines += [", ".join(versions) + ".", ""]
    for sheet in sheets:
        lines += [f"### {sheet.title}", "", _row(sheet.columns), _row(["---"] * len(sheet.columns))]
        lines += [*map(_row, sheet.rows), ""]
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def markers(part: str) -> tuple[str, str]:
    """Return the lines of the page between which one part of it is generated."""
    return f"<!-- {part}: written by make bench -->", f"<!-- end of {part} -->"


def replace_part(page: str, part: str, text: str) -> str:
    """Return the page with one generated part made anew.

    :raises ValueError: the page has no such part.
    """
    first, last = markers(part)
    before, begin, rest = page.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"the page has no part between {first} and {last}")
    return f"{before}{first}\n{text.strip()}\n{last}{after}"


def rounded(value: Any) -> Any:
    """Return the figures with five digits after the point, which is more than they are worth."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return value


def write_part(part: str, machine: Mapping[str, str], sheets: Sequence[Sheet]) -> None:
    """Write one part of the page anew."""
    _PAGE.write_text(replace_part(_PAGE.read_text(), part, markdown(machine, sheets)))


def write_raw(name: str, found: Mapping[str, Any]) -> None:
    """Put the raw figures beside the pictures."""
    text = json.dumps(rounded(dict(found)), separators=(",", ":"))
    (PICTURES / f"{name}.json").write_text(text + "\n")
