"""The worker's end of the launcher: hands it requests, hears how supervisors end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import Any, Final

from edge_mqtt.worker.errors import LauncherError
from edge_mqtt.worker.ipc.framing import LENGTH, frame_document
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.launcher.started import AIRFLOW_UNUSABLE, StartedLauncher

log = logging.getLogger(__name__)

#: Seconds that importing Airflow may take on a slow machine before we give up.
READY_TIMEOUT_S: Final = 180.0
#: Exits that are remembered until they are asked for.
EXITS_KEPT: Final = 1024
GONE: Final = "the launcher process is gone"


class LauncherClient:
    """Speaks to the launcher's process from the worker's loop.

    :meth:`wait_ready` comes first, once; then any number of :meth:`launch` and :meth:`wait_exit_code`, also at the
    same time; :meth:`stop` comes last and leaves the process to its supervisors. Nothing is durable: the files of the
    runs tell what was launched (:class:`RunFiles`). When the process is gone, :attr:`gone` is set and every launch
    that waits raises :class:`LauncherError`; a new client takes this one's place (:class:`LauncherKeeper`).
    """

    def __init__(self, process: StartedLauncher) -> None:
        self._process = process
        self._channel = process.channel
        self._writer: asyncio.StreamWriter | None = None
        self._launches: dict[tuple[str, int], asyncio.Future[int]] = {}
        self._exits: dict[int, int] = {}
        self._exit_recorded = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None
        #: Set when the process is gone.
        self.gone = asyncio.Event()

    async def wait_ready(self) -> None:
        """Wait until Airflow is imported.

        :raises LauncherError: it did not come up.
        """
        reader, self._writer = await asyncio.open_connection(sock=self._channel)
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                hello = await _read_report(reader)
        except TimeoutError:
            raise LauncherError(
                f"Airflow and the modules of preload_imports could not be imported within {READY_TIMEOUT_S:.0f} s"
            ) from None
        if hello is None:
            raise LauncherError(AIRFLOW_UNUSABLE)
        _warn_of_left_out(hello["left_out"])
        _warn_of_threads(hello["threads"])
        self._reading = asyncio.create_task(self._read_reports(reader), name="worker.launcher")

    async def launch(self, request: RunRequest) -> int:
        """Start a supervisor; return its pid.

        :raises LauncherError: the launcher is gone; nothing was started unless the run's process file exists.
        """
        if self._writer is None or self.gone.is_set():
            raise LauncherError(GONE)
        reply: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._launches[(request.job_id, request.fence)] = reply
        self._writer.write(frame_document(request.to_json()))
        return await reply

    async def wait_exit_code(self, pid: int, timeout: float) -> int | None:
        """Return how ``pid`` ended, negative for a signal; None when that is not told within ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while pid not in self._exits and not self.gone.is_set():
                    self._exit_recorded.clear()
                    await self._exit_recorded.wait()
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
        await asyncio.to_thread(self._process.wait_end)

    async def _read_reports(self, reader: asyncio.StreamReader) -> None:
        while (report := await _read_report(reader)) is not None:
            if "launched" in report:
                reply = self._launches.pop((report["launched"], report["fence"]), None)
                if reply is not None and not reply.done():
                    reply.set_result(report["pid"])
            elif "exited" in report:
                self._record_exit(report["exited"], report["code"])
        self.gone.set()
        self._exit_recorded.set()
        log.error(GONE, extra={"action": "launcher_gone"})
        for reply in self._launches.values():
            if not reply.done():
                reply.set_exception(LauncherError(GONE))
        self._launches.clear()

    def _record_exit(self, pid: int, code: int) -> None:
        self._exits[pid] = code
        while len(self._exits) > EXITS_KEPT:
            del self._exits[next(iter(self._exits))]
        self._exit_recorded.set()


def _warn_of_left_out(left_out: dict[str, str]) -> None:
    if left_out:
        log.warning(
            "preload_imports: not imported ahead of the tasks: %s",
            "; ".join(f"{name} ({reason})" for name, reason in left_out.items()),
            extra={"action": "preload_left_out"},
        )


def _warn_of_threads(threads: list[str]) -> None:
    if threads:
        log.warning(
            "the launcher has more than one thread when it forks, and a task may hang: %s. Airflow's local settings, "
            "a plugin or a provider starts them when it is loaded; see docs/worker.md",
            ", ".join(threads),
            extra={"action": "launcher_threads"},
        )


async def _read_report(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    try:
        header = await reader.readexactly(LENGTH.size)
        document = json.loads(await reader.readexactly(LENGTH.unpack(header)[0]))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    return document if isinstance(document, dict) else None
