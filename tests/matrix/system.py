"""A Debian system in a folder, in which commands run with processes and mounts of their own.

What a command mounts and starts lives in its namespaces: with the command both are gone, however it ends.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from tests.matrix.machine import MatrixError, network_environment, share_network

#: What the README asks of a machine, and git for the tests.
PACKAGES: Final = ("ca-certificates", "faketime", "git", "make", "python3", "python3-venv")
#: Where the tree lies in a system.
PROJECT: Final = Path("root/project")

# The kernel ends everything that the command has started when the first process in its namespace ends.
_ISOLATED: Final = (
    *("unshare", "--mount", "--propagation", "private"),
    *("--pid", "--fork", "--kill-child", "--mount-proc"),
)
# The shell stays, rather than become the command: as the first process in its namespace it has to reap orphans.
_INSIDE: Final = """
set -eu
root=$1
shift
mount --types proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount --types tmpfs --options mode=1777 tmpfs "$root/dev/shm"
chroot "$root" "$@"
"""
_ENVIRONMENT: Final = {
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    # Without it uv trusts those alone that come with it.
    "SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt",
}


class DebianSystem:
    """A release of Debian in a folder, made once and used again."""

    def __init__(self, suite: str, folder: Path) -> None:
        """:param folder: where systems are kept; this one gets a folder of the suite's name in it."""
        self.suite = suite
        self._root = folder.resolve() / suite
        self._log = folder.resolve() / f"{suite}.log"

    def make(self, mirror: str) -> None:
        """Make the system, unless it is there; one that was made half is made anew.

        :param mirror: the address of Debian's archive.
        :raises MatrixError: it cannot be made.
        """
        if self._root.exists():
            return
        making = self._root.with_suffix(".making")
        if making.exists():
            shutil.rmtree(making)
        making.mkdir(parents=True)
        including = f"--include={','.join(PACKAGES)}"
        with self._log.open("wb") as log:
            made = _run([*_ISOLATED, "debootstrap", "--variant=minbase", including, self.suite, making, mirror], log)
        if made != 0:
            raise MatrixError(f"debootstrap ended with {made}: see {self._log}")
        making.rename(self._root)

    def python_version(self) -> str:
        """Return what its Python says of itself."""
        asked = subprocess.run(
            ["chroot", self._root, "python3", "--version"], capture_output=True, text=True, check=True
        )
        return asked.stdout.strip()

    def put(self, tree: Path) -> None:
        """Lay a clean clone of ``tree``, as it is committed, where the last one was.

        :raises MatrixError: there is no clone to be had.
        """
        shutil.rmtree(self._root / PROJECT, ignore_errors=True)
        # Left by the tests before.
        shutil.rmtree(self._root / "tmp")
        (self._root / "tmp").mkdir()
        (self._root / "tmp").chmod(0o1777)
        if _run(["git", "clone", "--quiet", tree, self._root / PROJECT]) != 0:
            raise MatrixError(f"{tree} cannot be cloned")

    def run(self, command: Sequence[str]) -> int:
        """Run ``command`` in the clone; return its exit code."""
        share_network(self._root)
        environment = network_environment() | _ENVIRONMENT
        in_project = ("sh", "-c", f'update-ca-certificates > /dev/null && cd /{PROJECT} && exec "$@"', "sh", *command)
        return _run([*_ISOLATED, "bash", "-c", _INSIDE, "bash", self._root, *in_project], environment=environment)


def _run(
    command: Sequence[str | Path], log: IO[bytes] | None = None, *, environment: Mapping[str, str] | None = None
) -> int:
    with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as program:
        try:
            return program.wait()
        finally:
            program.kill()
