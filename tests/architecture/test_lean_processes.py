"""A program that stays in memory for months has loaded only what it works with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "src"
#: What the worker's own process has no use for: task processes and their launcher have.
NOT_THE_WORKERS = ("airflow", "amqtt", "cryptography", "dns", "fastapi", "httpx", "rich", "sqlalchemy", "watchfiles")


def loaded_by(*modules: str, options: tuple[str, ...] = ()) -> set[str]:
    """Return the packages that importing ``modules`` loads, in a Python with these options."""
    code = f"import sys, {', '.join(modules)}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, *options, "-c", code]
    done = subprocess.run(command, env={"PYTHONPATH": str(SOURCES)}, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_worker_loads_nothing_that_it_has_no_use_for() -> None:
    # Beside what its launcher has: see worker/launcher/forked.py.
    worker = ("edge_mqtt.worker.cli", "edge_mqtt.worker.bootstrap")
    assert loaded_by(*worker).isdisjoint(NOT_THE_WORKERS)


@pytest.mark.parametrize("name", ["worker", "broker_bridge", "broker_bridge.edge_logs", "certs"])
def test_ctrl_c_is_quiet_before_a_command_loads_anything(name: str) -> None:
    # Until then it shows a traceback. Without site, which has loaded much already where a project is being developed.
    bare = ("-S",)
    assert loaded_by(f"edge_mqtt.{name}.__main__", options=bare) - loaded_by("sys", options=bare) == {"edge_mqtt"}


def test_commands_that_make_certificates_load_no_tables() -> None:
    assert "rich" not in loaded_by("edge_mqtt.certs.cli")
