"""The worker's end of the launcher: hands it orders, hears how they end; starts another one in its place."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Final, Protocol

from edge_mqtt.worker.errors import LauncherError
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.launcher.main import LENGTH, framed

log = logging.getLogger(__name__)

#: Seconds that importing Airflow may take on a slow machine before we give up.
READY_TIMEOUT_S: Final = 180.0
#: Exits that are remembered for somebody who asks.
EXITS_KEPT: Final = 1024
#: Seconds that a launcher without supervisors gets to end.
END_WAIT_S: Final = 1.0
AIRFLOW_UNUSABLE: Final = (
    "Airflow could not be loaded: the lines above say why. Check AIRFLOW_HOME and airflow.cfg of this worker"
)
#: What makes the supervisor look at its task often. Its heartbeats are answered by the worker on the same machine,
#: and it sees its task's end only when that time is over if the task's last sockets close together (airflow.sdk
#: execution_time/supervisor.py, ``_monitor_subprocess``).
HEARTBEAT_VARIABLE: Final = "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL"
HEARTBEAT_INTERVAL_S: Final = "1"
#: Airflow looks for example Dags in every provider whenever a task parses its Dag, and writes into the task's log
#: about those that have none. They have no business on the edge.
EXAMPLES_VARIABLE: Final = "AIRFLOW__CORE__LOAD_EXAMPLES"
#: Airflow's remote logging would delete logs here, those of earlier tries with them, before the centre has them.
DELETE_LOGS_VARIABLE: Final = "AIRFLOW__LOGGING__DELETE_LOCAL_LOGS"
#: Settings of the data centre that have no business in a task's environment on the edge.
_NOT_FOR_TASKS: Final = (
    "AIRFLOW__API_AUTH__",
    "AIRFLOW__DATABASE__",
    "AIRFLOW__CORE__FERNET_KEY",
    "AIRFLOW__CORE__INTERNAL_API_SECRET_KEY",
    "AIRFLOW__CORE__EXECUTION_API_SERVER_URL",
    "AIRFLOW__CORE__SQL_ALCHEMY_CONN",
)


def launcher_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for the launcher and so for every task."""
    kept = {name: value for name, value in environment.items() if not name.startswith(_NOT_FOR_TASKS)}
    kept.setdefault(HEARTBEAT_VARIABLE, HEARTBEAT_INTERVAL_S)
    kept.setdefault(EXAMPLES_VARIABLE, "False")
    kept[DELETE_LOGS_VARIABLE] = "False"
    return kept


class StartedLauncher(Protocol):
    """A launcher's process, which nobody has spoken to yet."""

    #: Our end of the way to it.
    channel: socket.socket

    def kill(self) -> None:
        """End it."""

    def let_go(self) -> None:
        """Wait a moment for its end: it stays for as long as supervisors run, and then it is not ours to wait for."""


class LauncherProcess:
    """A launcher that is a program of its own: what a worker that has threads can start."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = f"from edge_mqtt.worker.launcher.main import main; main({theirs.fileno()})"
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

    def let_go(self) -> None:
        """Wait a moment for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(END_WAIT_S)
        # A process that is left behind on purpose is not a forgotten one.
        self.process.returncode = self.process.returncode or 0


class LauncherClient:
    """Speaks to the launcher's process from the worker's loop."""

    def __init__(self, process: StartedLauncher) -> None:
        self._process = process
        self._channel = process.channel
        self._writer: asyncio.StreamWriter | None = None
        self._launches: dict[tuple[str, int], asyncio.Future[int]] = {}
        self._exits: dict[int, int] = {}
        self._exit_told = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        #: Set when the process is gone.
        self.gone = asyncio.Event()

    async def ready(self) -> None:
        """Wait until Airflow is imported.

        :raises LauncherError: it did not come up.
        """
        reader, self._writer = await asyncio.open_connection(sock=self._channel)
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                hello = await _read(reader)
        except TimeoutError:
            raise LauncherError(
                f"Airflow and the modules of preload_imports could not be imported within {READY_TIMEOUT_S:.0f} s"
            ) from None
        if hello is None:
            raise LauncherError(AIRFLOW_UNUSABLE)
        _warn_of_left_out(hello["left_out"])
        self._reading = asyncio.create_task(self._read_reports(reader), name="worker.launcher")

    async def launch(self, order: RunRequest) -> int:
        """Start a supervisor; return its pid.

        :raises LauncherError: the launcher is gone; nothing was started unless the run's process file exists.
        """
        if self._writer is None or self.gone.is_set():
            raise LauncherError("the launcher process is gone")
        reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._launches[(order.job_id, order.fence)] = reply
        self._writer.write(framed(order.to_json()))
        return await reply

    async def exit_code(self, pid: int, timeout: float) -> int | None:
        """Return how ``pid`` ended, negative for a signal; None when nobody says so within ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while pid not in self._exits and not self.gone.is_set():
                    self._exit_told.clear()
                    await self._exit_told.wait()
        return self._exits.pop(pid, None)

    async def stop(self) -> None:
        """Let the launcher go; it stays for as long as supervisors run."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
        else:
            self._channel.close()
        await asyncio.to_thread(self._process.let_go)

    async def _read_reports(self, reader: asyncio.StreamReader) -> None:
        while (report := await _read(reader)) is not None:
            if "launched" in report:
                reply = self._launches.pop((report["launched"], report["fence"]), None)
                if reply is not None and not reply.done():
                    reply.set_result(report["pid"])
            elif "exited" in report:
                self._exits[report["exited"]] = report["code"]
                while len(self._exits) > EXITS_KEPT:
                    del self._exits[next(iter(self._exits))]
                self._exit_told.set()
        self.gone.set()
        self._exit_told.set()
        log.error("the launcher process is gone", extra={"action": "launcher_gone"})
        for reply in self._launches.values():
            if not reply.done():
                reply.set_exception(LauncherError("the launcher process is gone"))
        self._launches.clear()


def _warn_of_left_out(left_out: dict[str, str]) -> None:
    if left_out:
        log.warning(
            "preload_imports: not imported ahead of the tasks: %s",
            "; ".join(f"{name} ({reason})" for name, reason in left_out.items()),
            extra={"action": "preload_left_out"},
        )


async def _read(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    try:
        header = await reader.readexactly(LENGTH.size)
        document = json.loads(await reader.readexactly(LENGTH.unpack(header)[0]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return document if isinstance(document, dict) else None
