"""edge-bridge as a program of its own, with its files in one folder."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import httpx

from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store

COMMAND = str(Path(sys.executable).parent / "edge-bridge")


class Site:
    """A folder with certificates and an AIRFLOW_HOME."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificates = Store(folder / "certs")
        self.certificates.create(hosts=["127.0.0.1"], force=False, now=datetime.now(UTC))
        self.certs = self.certificates.folder(Identity(Role.BRIDGE, "bridge"))
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *options: str, port: int = 0, health_port: int | None = None) -> subprocess.Popen[str]:
        settings = {"--port": str(port), "--health-port": str(health_port or free_port())}
        arguments = [text for pair in settings.items() for text in pair if pair[0] not in options]
        if "--certs" not in options:
            arguments += ["--certs", str(self.certs)]
        process = subprocess.Popen(
            [COMMAND, *arguments, *options],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.folder),
                "AIRFLOW_HOME": str(self.folder / "airflow"),
                "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def refusal(self, *options: str, port: int = 0) -> str:
        """Return the one line of a start that must fail."""
        process = self.start(*options, port=port)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 2, err
        assert out == ""
        (line,) = [line for line in err.splitlines() if line.startswith("edge-bridge:")]
        assert "Traceback" not in err
        return line


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until_healthy(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/healthz", trust_env=False)
            if answer.text == "the bridge is starting\n":
                continue
        except httpx.ConnectError:
            assert time.monotonic() < deadline, "the bridge does not come up"
            time.sleep(0.1)
            continue
        assert (answer.status_code, answer.text) == (200, "ok\n")
        return
