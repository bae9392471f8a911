"""Fresh installs, and which packages weigh how much in them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from tests.benchmarks.weight.proc import MB

ROOT = Path(__file__).parents[3]
#: What is installed on a worker's machine, by executor. Airflow's own workers need all of it, as their documentation
#: says; ours needs what its pyproject.toml says.
INSTALLS = {
    "edge-mqtt": (f"{ROOT}[worker]",),
    "edge3": ("apache-airflow<3.4", "apache-airflow-providers-edge3"),
    "celery": ("apache-airflow<3.4", "apache-airflow-providers-celery", "redis"),
}


#: What each part of ours needs, by its extra.
EXTRAS = {
    "base": (str(ROOT),),
    "worker": (f"{ROOT}[worker]",),
    "executor": (f"{ROOT}[executor]",),
    "bridge": (f"{ROOT}[bridge]",),
    "all": (f"{ROOT}[all]",),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Install:
    """An environment with nothing but what a worker of one kind needs."""

    folder: Path
    #: Bytes by distribution, the largest first, with the bytecode that Python makes of it.
    sizes: dict[str, int]

    @property
    def python(self) -> Path:
        """Its Python."""
        return self.folder / "bin" / "python"

    @property
    def megabytes(self) -> float:
        """All of it."""
        return sum(self.sizes.values()) / MB


def install(folder: Path, requirements: Sequence[str]) -> Install:
    """Make an environment in ``folder``.

    :raises subprocess.CalledProcessError: it could not be made.
    """
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--link-mode", "copy"]
    subprocess.run([*command, "--python", str(folder / "bin" / "python"), *requirements], check=True)
    return weighed(folder)


def weighed(folder: Path) -> Install:
    """Return the environment that lies in ``folder``."""
    (site,) = (folder / "lib").glob("python3*/site-packages")
    sizes = {found.name: size_of(found) for found in distributions(path=[str(site)])}
    return Install(folder=folder, sizes=dict(sorted(sizes.items(), key=lambda item: -item[1])))


def size_of(distribution: Distribution) -> int:
    """Return the bytes of a distribution's files and of the bytecode that belongs to them."""
    listed = {Path(str(distribution.locate_file(file))) for file in distribution.files or ()}
    compiled = {cached for file in listed if file.suffix == ".py" for cached in _bytecode(file)}
    return sum(file.stat().st_size for file in listed | compiled if file.is_file())


def _bytecode(source: Path) -> list[Path]:
    return list((source.parent / "__pycache__").glob(f"{source.stem}.*.pyc"))
