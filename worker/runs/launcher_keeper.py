"""Starts the launcher again when it is gone: killed because memory ran out, for example."""

from __future__ import annotations

import asyncio
import logging

from edge_mqtt.worker.errors import LauncherError
from edge_mqtt.worker.launcher.spawned import SpawnedLauncher
from edge_mqtt.worker.runs.launcher_client import LauncherClient
from edge_mqtt.worker.runs.supervisors import Supervisors
from edge_mqtt.worker.timing import WorkerTiming

log = logging.getLogger(__name__)


class LauncherKeeper:
    """Sees to it that :attr:`Supervisors.launcher` is one that lives."""

    def __init__(self, supervisors: Supervisors, timing: WorkerTiming) -> None:
        self._supervisors = supervisors
        self._timing = timing

    async def run(self) -> None:
        """Replace one launcher after another, for ever."""
        while True:
            await self._supervisors.launcher.gone.wait()
            await self._supervisors.launcher.stop()
            await asyncio.sleep(self._timing.launcher_retry_s)
            await self._replace_launcher()

    async def _replace_launcher(self) -> None:
        launcher = LauncherClient(SpawnedLauncher())
        try:
            await launcher.wait_ready()
        except LauncherError as error:
            log.error("%s", error, extra={"action": "launcher_failed"})  # noqa: TRY400 -- the line says it all
            launcher.gone.set()
            self._supervisors.launcher = launcher
            return
        self._supervisors.launcher = launcher
        log.info("the launcher is back", extra={"action": "launcher_back"})
        await self._supervisors.launch_waiting()
