"""What the documentation says of settings and commands is what the programs have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from edge_mqtt.executor.provider_info import get_provider_info

ROOT = Path(__file__).parents[2]


def test_every_setting_is_documented_with_its_default_and_description() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name, option in get_provider_info()["config"]["edge_mqtt"]["options"].items():
        default = "" if option["default"] is None else f"`{option['default']}`"
        assert f"| `{name}` | {default} | {' '.join(option['description'].split())} |" in page


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
