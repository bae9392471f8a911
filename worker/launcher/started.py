"""A launcher's process as the worker that has started it sees it."""

from __future__ import annotations

import socket
from typing import Final, Protocol

#: Seconds that a launcher without supervisors gets to end.
END_WAIT_S: Final = 1.0
AIRFLOW_UNUSABLE: Final = (
    "Airflow could not be loaded: the lines above say why. Check AIRFLOW_HOME and airflow.cfg of this worker"
)


class StartedLauncher(Protocol):
    """The process, which has not been spoken to yet."""

    #: The worker's end of the way to it.
    channel: socket.socket

    def kill(self) -> None:
        """End it."""

    def wait_end(self) -> None:
        """Wait a moment for its end: it stays for as long as supervisors run, and then it is not ours to wait for."""
