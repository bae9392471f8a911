"""``python -m tests.matrix``: all of ``make test`` on the Pythons of other releases of Debian."""

from __future__ import annotations

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

from tests.matrix.machine import MatrixError, debian_mirror
from tests.matrix.system import DebianSystem

TREE: Final = Path(__file__).resolve().parents[2]
COMMAND: Final = ("make", "test")
#: Debian 13 has Python 3.13; what becomes the release after it has 3.14.
SUITES: Final = ("trixie", "sid")
#: What this program needs and a machine may not have, by the package that has it.
PROGRAMS: Final = {"debootstrap": "debootstrap", "unshare": "util-linux", "git": "git"}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the tests went on one system."""

    passed: bool
    line: str


def check_machine() -> None:
    """Check that systems can be made here.

    :raises MatrixError: they cannot.
    """
    if os.geteuid() != 0:
        raise MatrixError("whole systems are made and mounted: run this as root")
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            raise MatrixError(f"there is no {program}: install Debian's package {package}")


def try_suite(suite: str, folder: Path, mirror: str) -> Outcome:
    """Run the tests on one system, which is made when it is not there."""
    system, began = DebianSystem(suite, folder), time.monotonic()
    try:
        system.make(mirror)
        system.put(TREE)
        python = system.python_version()
        typer.echo(f"{suite}: {python}, {' '.join(COMMAND)}")
        code = system.run(COMMAND)
    except MatrixError as error:
        return Outcome(passed=False, line=f"{suite}: FAILED: {error}")
    verdict = "passed" if code == 0 else f"FAILED: '{' '.join(COMMAND)}' ended with {code}"
    return Outcome(passed=code == 0, line=f"{suite}: {python}: {verdict} ({(time.monotonic() - began) / 60:.0f} min)")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def matrix(
    suites: Annotated[list[str] | None, typer.Argument(help="Debian's names of releases.")] = None,
    *,
    folder: Annotated[Path, typer.Option(envvar="MATRIX_DIR", help="Where the systems are kept; 1.5 GB each.")] = TREE
    / "build"
    / "matrix",
    mirror: Annotated[
        str | None, typer.Option(envvar="MATRIX_MIRROR", help="Debian's archive; else the one that apt uses here.")
    ] = None,
) -> None:
    """Run ``make test`` on a clean clone of what is committed, on each system; exit code 0 when it passed on all."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        check_machine()
        archive = mirror or debian_mirror()
        outcomes = [try_suite(suite, folder, archive) for suite in suites or SUITES]
    except MatrixError as error:
        typer.echo(f"matrix: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    for outcome in outcomes:
        typer.echo(outcome.line)
    raise typer.Exit(0 if all(outcome.passed for outcome in outcomes) else 1)


if __name__ == "__main__":
    typer.run(matrix)
