"""The stack's certificates: one authority, and a copy for each party in its own home."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path

from deploy.quickstart.ports import HOST
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import BRIDGE_NAME, Store

#: Names in the certificates of the executor and the operator.
EXECUTOR_NAME = "scheduler"
OPERATOR_NAME = "demo"


class Certificates:
    """Issues certificates and brings each to where its party runs, as one would bring it to another machine."""

    def __init__(self, directory: Path) -> None:
        """Use an authority in ``directory``; :meth:`found` makes it."""
        self._store = Store(directory)

    def found(self, *, bridge: Path, executor: Path, operator: Path) -> None:
        """Make the authority, and the parties that every stack has, in these folders."""
        self._store.create(hosts=[HOST, "localhost"], force=False, now=datetime.now(UTC))
        self._hand_out(Identity(Role.BRIDGE, BRIDGE_NAME), bridge)
        self._issue(Identity(Role.EXECUTOR, EXECUTOR_NAME), executor)
        self._issue(Identity(Role.OPERATOR, OPERATOR_NAME), operator)

    def add_worker(self, name: str, folder: Path) -> None:
        """Make a worker's certificate in ``folder``."""
        self._issue(Identity(Role.WORKER, name), folder)

    def _issue(self, identity: Identity, folder: Path) -> None:
        self._store.issue(identity, force=False, now=datetime.now(UTC))
        self._hand_out(identity, folder)

    def _hand_out(self, identity: Identity, folder: Path) -> None:
        shutil.copytree(self._store.folder(identity), folder)
