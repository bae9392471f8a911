"""Ctrl-C while a command is still starting: it ends at once and says nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store

#: The first import of every command; what comes later finds the handler installed.
FIRST = "edge_mqtt.broker_bridge.program.interrupt"
#: Python writes a line like this for every module that it has imported.
NOISE = "import time:"
WORKER, OPERATOR = Identity(Role.WORKER, "lab-1"), Identity(Role.OPERATOR, "ann")
NOWHERE = ("--bridge", "wss://localhost:1/mqtt")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    made = Store(tmp_path_factory.mktemp("certs") / "store")
    now = datetime.now(UTC)
    made.create(hosts=["localhost"], force=False, now=now)
    for identity in (WORKER, OPERATOR):
        made.issue(identity, force=False, now=now)
    return made


class Command:
    """A command in a process group of its own, which tells of its imports."""

    def __init__(self, module: str, arguments: tuple[str, ...], home: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-X", "importtime", "-m", module, *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "AIRFLOW_HOME": str(home / "airflow"),
                "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64,
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def imports(self) -> Iterator[str]:
        assert self.process.stderr is not None
        return (line.rsplit("|", 1)[-1].strip() for line in self.process.stderr if line.startswith(NOISE))

    def interrupt_after(self, count: int) -> tuple[int, list[str]]:
        """Send what Ctrl-C sends after so many imports; return the exit code and what was said."""
        imports = self.imports()
        assert FIRST in imports
        for _ in range(count):
            next(imports, None)
        os.killpg(self.process.pid, signal.SIGINT)
        # Up to the end of whoever has inherited stderr.
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, [line for line in rest.splitlines() if not line.startswith(NOISE)]


def arguments_of(module: str, store: Store, home: Path) -> tuple[str, ...]:
    if module == "edge_mqtt.broker_bridge":
        bridge = str(store.folder(Identity(Role.BRIDGE, "bridge")))
        return ("--certs", bridge, "--port", "0", "--host", "127.0.0.1", "--health-port", "0")
    if module == "edge_mqtt.worker":
        return (*NOWHERE, "--certs", str(store.folder(WORKER)), "--state-dir", str(home / "state"))
    if module == "edge_mqtt.broker_bridge.edge_logs":
        return (*NOWHERE, "--certs", str(store.folder(OPERATOR)), "--all", "--follow")
    return ("list", "--dir", str(store.directory))


#: After how many imports Ctrl-C is pressed: from the first to one of the last before the program's own handlers.
MOMENTS = {
    "edge_mqtt.broker_bridge": (1, 100, 300, 500, 800, 1200),
    "edge_mqtt.worker": (1, 60, 120, 180, 240, 300, 600, 1200),
    "edge_mqtt.broker_bridge.edge_logs": (1, 60, 120, 180, 220, 260),
    "edge_mqtt.certs": (1, 50, 100, 150, 200, 250),
}


@pytest.mark.parametrize(("module", "count"), [(module, n) for module, counts in MOMENTS.items() for n in counts])
def test_interrupt_during_the_start_ends_a_command_without_a_word(
    store: Store, tmp_path: Path, module: str, count: int
) -> None:
    command = Command(module, arguments_of(module, store, tmp_path), tmp_path)
    code, said = command.interrupt_after(count)
    assert (code, said) == (ExitCode.INTERRUPTED, [])


def test_interrupt_stays_ignored_for_a_program_in_the_background() -> None:
    script = f"""
import os, signal
from {FIRST} import end_quietly, raise_again
end_quietly()
raise_again()
os.kill(os.getpid(), signal.SIGINT)
"""
    subprocess.run(
        [sys.executable, "-c", script], check=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)
    )
