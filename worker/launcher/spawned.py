"""A launcher that is a program of its own: what a worker that has threads can start in the place of its first one."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

from edge_mqtt.worker.launcher.environment import launcher_environment
from edge_mqtt.worker.launcher.started import END_WAIT_S


class SpawnedLauncher:
    """The process, started and not yet spoken to."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = f"from edge_mqtt.worker.launcher.spawned import main; main({theirs.fileno()})"
            # -P: no folder of the person who starts the worker may shadow a module of Airflow or of a Dag.
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", command],
                env=launcher_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
        self.channel = ours

    def kill(self) -> None:
        """End it."""
        self.process.kill()

    def wait_end(self) -> None:
        """Wait a moment for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_WAIT_S)
        # A process that is left behind on purpose is not a forgotten one.
        self.process.returncode = self.process.returncode or 0


def main(descriptor: int) -> None:
    """Be that program: load Airflow, and serve the worker at the other end of ``descriptor``."""
    from edge_mqtt.worker.launcher.main import ForkServer, become_launcher
    from edge_mqtt.worker.launcher.preload import preload_airflow

    become_launcher()
    preload_airflow()
    ForkServer(socket.socket(fileno=descriptor)).serve()
