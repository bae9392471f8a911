"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from tests.chaos.postgres import programs

_PACKAGES: Final = (
    "airflow-edge-mqtt",
    "apache-airflow-core",
    "apache-airflow-task-sdk",
    "apache-airflow-providers-celery",
    "celery",
    "apache-airflow-providers-edge3",
)


def describe() -> dict[str, str]:
    """Return the machine and the versions of everything that takes part."""
    redis = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=True).stdout
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": platform.platform(terse=True),
        "Python": platform.python_version(),
        "PostgreSQL": programs().parent.name,
        "Redis": redis.split("v=")[1].split()[0],
        **{package: version(package) for package in _PACKAGES},
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
