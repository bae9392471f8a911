"""What this machine knows and a new system needs: where packages come from, whom it trusts, how it is connected.

It is read when it is needed, and kept nowhere: of other people's registries this repository names none.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

#: What pip is told about the network. All else (folders of wheels, constraints) lies on this machine.
_PIP_SETTINGS: Final = frozenset(
    {"default-timeout", "extra-index-url", "index-url", "proxy", "retries", "timeout", "trusted-host"}
)
#: Variables that say how the network is reached.
_NETWORK: Final = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
#: Where Debian's ca-certificates looks for authorities that this machine trusts besides the usual ones.
_AUTHORITIES: Final = Path("usr/local/share/ca-certificates")
#: How a machine finds others.
_RESOLVER: Final = (Path("etc/resolv.conf"), Path("etc/hosts"))


class MatrixError(Exception):
    """A system cannot be made, in one line that says what to do."""


def mirror_among(targets: Iterable[str]) -> str | None:
    """Return the address of Debian's archive in what apt lists; None when it is not there.

    :param targets: lines of an index's address and its component.
    """
    for target in targets:
        address, _, component = target.strip().partition(" ")
        if component == "main" and urlsplit(address).path.rstrip("/").endswith("/debian"):
            return address
    return None


def debian_mirror() -> str:
    """Return the address of Debian's archive that this machine's apt uses.

    :raises MatrixError: apt knows none.
    """
    listed = subprocess.run(
        ["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI) $(COMPONENT)"],
        capture_output=True,
        text=True,
        check=False,
    )
    mirror = mirror_among(listed.stdout.splitlines())
    if mirror is None:
        raise MatrixError("apt names no archive of Debian here: set MATRIX_MIRROR to the address of one")
    return mirror


def pip_environment(settings: Iterable[str]) -> dict[str, str]:
    """Return as environment variables what ``pip config list`` says about the network.

    :param settings: its lines; an environment variable's comes first, then the files', and the first one counts.
    """
    environment: dict[str, str] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        name = key.rpartition(".")[2]
        if not equals or name not in _PIP_SETTINGS:
            continue
        words = [word for word in str(ast.literal_eval(value)).split() if not word.startswith(("/", "file:"))]
        if words:
            environment.setdefault(f"PIP_{name.upper().replace('-', '_')}", " ".join(words))
    return environment


def network_environment() -> dict[str, str]:
    """Return the variables with which programs in another system reach the network as they do here."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    proxies = {name: os.environ[name] for name in _NETWORK if name in os.environ}
    return proxies | pip_environment(listed.stdout.splitlines())


def share_network(root: Path) -> None:
    """Have the system in ``root`` find other machines as this one does and trust the same authorities.

    :raises OSError: a file cannot be copied.
    """
    here = Path("/")
    for file in _RESOLVER:
        (root / file).unlink(missing_ok=True)
        shutil.copyfile(here / file, root / file)
    for authority in (here / _AUTHORITIES).rglob("*.crt"):
        shutil.copy(authority, root / _AUTHORITIES)
