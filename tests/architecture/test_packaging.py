"""What is installed is what is in the folders, under one namespace that shadows nobody's modules."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("broker_bridge", "certs", "executor", "worker")


def test_every_folder_of_modules_is_a_package() -> None:
    folders = {module.parent for folder in FOLDERS for module in (ROOT / folder).rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_the_folders_are_not_importable_as_top_level_modules() -> None:
    code = f"import importlib.util as u; print([n for n in {FOLDERS!r} if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


def test_the_namespace_holds_the_folders_and_nothing_else() -> None:
    links = {link.name: link.resolve() for link in (ROOT / "src" / "edge_mqtt").iterdir()}
    assert links == {folder: ROOT / folder for folder in FOLDERS}


def test_every_command_can_be_loaded() -> None:
    ours = [point for point in entry_points(group="console_scripts") if point.value.startswith("edge_mqtt.")]
    assert {point.name for point in ours} == {"edge-bridge", "edge-certs", "edge-logs", "edge-worker"}
    for point in ours:
        assert callable(point.load())


def test_importing_the_executor_package_has_no_side_effects() -> None:
    code = (
        "import sys, socket, sqlite3\n"
        "def refuse(event, args):\n"
        "    if event in ('socket.connect', 'sqlite3.connect', 'subprocess.Popen', 'os.fork'):\n"
        "        raise SystemExit(f'import did {event} {args}')\n"
        "sys.addaudithook(refuse)\n"
        "import edge_mqtt.executor\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
