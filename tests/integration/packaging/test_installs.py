"""What pip makes of the repository: a wheel that holds every part, and a base install that needs no Airflow."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDERS = ("broker_bridge", "certs", "executor", "worker")
#: What the base install must not bring: each is an extra's.
EXTRAS_ONLY = {"airflow", "amqtt", "sqlalchemy", "uvicorn", "inotify_simple"}
UV = Path(sys.executable).with_name("uv")


def sources() -> set[str]:
    """Return the files that a wheel must hold, as they are called in it."""
    tracked = subprocess.run(["git", "ls-files", *FOLDERS], cwd=ROOT, capture_output=True, text=True, check=True)
    return {f"edge_mqtt/{name}" for name in tracked.stdout.split()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of this checkout, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    clone = folder / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(folder)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=clone, capture_output=True, check=True)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the source distribution, as pip does it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=sdist, capture_output=True, check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a virtual environment with nothing but the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("base") / "venv"
    subprocess.run([UV, "venv", "--quiet", "--python", sys.executable, str(folder)], check=True)
    command: list[str | Path] = [UV, "pip", "install", "--quiet", "--python", str(folder / "bin" / "python")]
    subprocess.run([*command, "--constraint", str(ROOT / "requirements.lock"), str(wheel)], check=True)
    return folder / "bin"


def run(program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing of this checkout in its way."""
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "200"}
    command = [str(program), *arguments]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_the_wheel_holds_every_file_of_the_four_folders_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        held = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert held == sources()


def test_the_base_install_needs_no_airflow(programs: Path) -> None:
    code = f"from importlib.util import find_spec; print([name for name in {sorted(EXTRAS_ONLY)} if find_spec(name)])"
    assert run(programs / "python", "-c", code).stdout == "[]\n"


def test_edge_certs_and_edge_logs_work_in_the_base_install(programs: Path, tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    made = run(programs / "edge-certs", "init", "--dir", str(folder), "--bridge-host", "localhost")
    assert (made.returncode, made.stderr) == (0, "")
    issued = run(programs / "edge-certs", "issue", "operator", "ann", "--dir", str(folder))
    assert (issued.returncode, issued.stderr) == (0, "")
    shown = run(programs / "edge-certs", "list", "--dir", str(folder))
    assert "ann" in shown.stdout
    assert run(programs / "edge-logs", "--version").stdout.startswith("airflow-edge-mqtt ")
    nowhere = run(
        programs / "edge-logs",
        "d",
        "--bridge",
        "wss://localhost:1/mqtt",
        "--certs",
        str(folder / "operators" / "ann"),
    )
    assert nowhere.returncode != 0
    assert "Traceback" not in nowhere.stderr
    assert "localhost" in nowhere.stderr


@pytest.mark.parametrize("extra", ["worker", "bridge"])
def test_a_program_without_its_extra_says_in_one_line_what_to_install(programs: Path, extra: str) -> None:
    done = run(programs / f"edge-{extra}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"pip install 'airflow-edge-mqtt[{extra}]'" in done.stderr
