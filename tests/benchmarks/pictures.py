"""Pictures that look alike, each as SVG and PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

#: The same figures give the same files.
mpl.rcParams.update({"svg.hashsalt": "airflow-edge-mqtt", "svg.fonttype": "none", "font.size": 9.0})
mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False})


def save(figure: Figure, path: Path) -> list[Path]:
    """Save a picture under a path without a suffix; return the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "png": {"Software": None}}
    files = [path.with_suffix(f".{suffix}") for suffix in metadata]
    for file, facts in zip(files, metadata.values(), strict=True):
        figure.savefig(file, dpi=110, metadata=facts)
    return files
