"""What the figures were measured on."""

from __future__ import annotations

import subprocess
from typing import Final

from tests.benchmarks.machine import describe as describe_machine
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
    return describe_machine(_PACKAGES, PostgreSQL=programs().parent.name, Redis=redis.split("v=")[1].split()[0])
