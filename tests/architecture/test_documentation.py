"""What the documentation says of settings and commands is what the programs have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.generated import with_generated
from edge_mqtt.broker_bridge.program.settings.documentation import PAGES
from edge_mqtt.broker_bridge.program.settings.schema import SETTINGS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_settings_are_the_schema_s(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    assert with_generated(text, {part: table() for part, table in PAGES[page].items()}) == text, "run make docs"


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert [setting.name for setting in SETTINGS if page.count(f"| `{setting.name}` |") != 1] == []


@pytest.mark.parametrize("page", sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]))
def test_every_link_between_pages_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("command", ["edge-bridge", "edge-certs", "edge-logs", "edge-worker"])
def test_every_command_explains_itself(command: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / command, "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "Usage" in done.stdout
    assert done.stderr == ""
