"""The architecture page names files and folders that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
#: Paths as the page writes them: a top folder, then names.
PATHS = sorted(set(re.findall(r"`((?:broker_bridge|worker|executor|certs|tests|deploy|docs)/[\w/.]*)`", PAGE)))


def test_every_path_on_the_page_exists() -> None:
    assert len(PATHS) > 40
    assert [path for path in PATHS if not (ROOT / path).exists()] == []


def test_decisions_name_files_that_exist() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    assert len(pages) >= 9
    for page in pages:
        for path in re.findall(r"`((?:broker_bridge|worker|executor|certs|tests)/[\w/.]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name} names {path}"
