"""Processes that tests have others start."""

from __future__ import annotations

from pathlib import Path

import psutil


def living_processes(pids: Path) -> list[psutil.Process]:
    """Return what lives of the processes whose pids are in a file, which may not be there yet."""
    found = []
    for pid in pids.read_text().split() if pids.exists() else ():
        try:
            process = psutil.Process(int(pid))
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
