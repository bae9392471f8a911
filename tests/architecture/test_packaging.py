"""What is installed is what is in the folders, under one namespace that shadows nobody's modules."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("broker_bridge", "certs", "executor", "worker")


def test_every_package_folder_is_named_in_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        "edge_mqtt." + ".".join(init.parent.relative_to(ROOT).parts)
        for folder in FOLDERS
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(project["tool"]["setuptools"]["packages"]) == packages


def test_the_folders_are_not_importable_as_top_level_modules() -> None:
    code = f"import importlib.util as u; print([n for n in {FOLDERS!r} if u.find_spec(n)])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert done.stdout.strip() == "[]"


def test_type_checkers_see_the_same_names() -> None:
    for folder in FOLDERS:
        assert (ROOT / "typings" / "edge_mqtt" / folder).resolve() == ROOT / folder


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
