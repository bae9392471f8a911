"""Whoever searches docs/troubleshooting.md for the words of a log line finds them: they are the programs' own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: A part's name, and what follows up to the next one.
SAYS = re.compile(r"(?:worker|bridge|scheduler|log): (.*?)(?=; \w+: |$)")


def quoted() -> list[str]:
    """Return every text that the page says a part writes."""
    lines = (ROOT / "docs" / "troubleshooting.md").read_text().splitlines()
    seen = [line.split("|")[1] for line in lines if line.startswith("|")]
    return sorted(
        {text for cell in seen for said in SAYS.findall(cell.strip()) for text in re.findall("`(.*?)`", said)}
    )


@pytest.fixture(scope="module")
def programs() -> str:
    """The sources, with string literals that are broken over lines put together."""
    folders = ("broker_bridge", "certs", "executor", "worker")
    text = "\n".join(file.read_text() for folder in folders for file in sorted((ROOT / folder).rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", text)


@pytest.mark.parametrize("text", [text for text in quoted() if not text.startswith(("--", "/"))])
def test_every_quoted_line_is_one_that_a_program_writes(programs: str, text: str) -> None:
    assert text in programs
