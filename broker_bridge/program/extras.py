"""What ``pip install airflow-edge-mqtt`` alone does not bring: each program with an extra says so in one line."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Final

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode

#: This distribution, as pip knows it.
DISTRIBUTION: Final = "airflow-edge-mqtt"


def require_extra(program: str, extra: str, packages: Iterable[str]) -> None:
    """Return when the packages are installed that only ``extra`` brings.

    :param packages: top-level packages, none of which is imported.
    :raises SystemExit: one is missing; the exit code is 2, and stderr has one line.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        command = f"pip install '{DISTRIBUTION}[{extra}]'"
        print(f"{program}: {', '.join(missing)} must be installed: {command}", file=sys.stderr)
        raise SystemExit(ExitCode.USAGE)
