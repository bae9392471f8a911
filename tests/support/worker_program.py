"""edge-worker as a program of its own, and a bridge's broker that it can connect to."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType

from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import server_context
from tests.support.fixed_context import FixedContext

WAIT_S = 60


@dataclass(frozen=True, kw_only=True)
class Site:
    """Certificates, and a running broker's address."""

    certs: Path
    url: str = "wss://localhost:1/mqtt"

    def folder(self, role: Role, name: str) -> Path:
        """Return a party's folder, issuing its certificate if there is none."""
        store = Store(self.certs)
        identity = Identity(role, name)
        if not store.folder(identity).exists():
            store.issue(identity, force=False, now=datetime.now(UTC))
        return store.folder(identity)


def new_site(tmp_path: Path) -> Site:
    """Make certificates."""
    certs = tmp_path / "certs"
    Store(certs).create(hosts=["localhost"], force=False, now=datetime.now(UTC))
    return Site(certs=certs)


@contextmanager
def broker(site: Site) -> Iterator[int]:
    """Run the bridge's broker in a thread."""
    loop = asyncio.new_event_loop()
    context = server_context(load_credentials(site.certs / "bridge"))
    embedded = EmbeddedBroker(ssl_contexts=FixedContext(context), topics=Topics(), host="127.0.0.1", port=0)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(embedded.start(), loop).result(WAIT_S)
    try:
        yield embedded.port
    finally:
        asyncio.run_coroutine_threadsafe(embedded.stop(), loop).result(WAIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Program:
    """A running edge-worker."""

    process: subprocess.Popen[str]

    def line(self, text: str) -> str:
        """Read stderr up to the line with ``text``."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"no {text!r} in {seen}")

    def end(self, signum: signal.Signals | None = None) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was left on stderr."""
        if signum is not None:
            self.process.send_signal(signum)
        _, rest = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, rest


def start(
    tmp_path: Path,
    *arguments: str,
    inherit: tuple[int, ...] = (),
    environment: Mapping[str, str] = MappingProxyType({}),
) -> Program:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "edge_mqtt.worker", *arguments],
        env={**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "false", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=inherit,
    )
    return Program(process)


def options(site: Site, name: str, tmp_path: Path) -> tuple[str, ...]:
    return (
        "--bridge",
        site.url,
        "--certs",
        str(site.folder(Role.WORKER, name)),
        "--state-dir",
        str(tmp_path / f"state-{name}"),
    )
