"""Reads a party's folder in a process of its own, which takes the memory that reading certificates needs with it.

For a program that stays for months on a small machine and needs what the certificate says only at its start.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path

from edge_mqtt.broker_bridge.program.private_files import FileUnusable
from edge_mqtt.certs.credentials import Credentials


def load_credentials_forked(directory: Path) -> Credentials:
    """Return what :func:`edge_mqtt.certs.loading.load_credentials` does. Call it while the program has one thread.

    :raises ProgramError: as there, or the process ended before it was done.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(ours)
            with os.fdopen(theirs, "wb") as pipe:
                pickle.dump(_attempt(directory), pipe)
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    try:
        found = pickle.loads(answer)  # noqa: S301 -- our own process wrote it
    except EOFError:
        raise FileUnusable(f"{directory} could not be read: the process that read it was killed") from None
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Credentials)  # noqa: S101 -- tells mypy what pickle cannot
    return found


def _attempt(directory: Path) -> Credentials | Exception:
    from edge_mqtt.certs.loading import load_credentials

    try:
        return load_credentials(directory)
    except Exception as error:  # noqa: BLE001 -- the process that asked raises it
        return error
