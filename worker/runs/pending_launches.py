"""Supervisors that are forked while their jobs are being stored.

A supervisor sets itself up meanwhile and makes its first call, which asks whether it may start. That is answered when
the job is stored, and refused when it could not be stored, or when the worker died before it was. Nothing of the
user's runs before that answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from edge_mqtt.worker.core.job import LocalJob
from edge_mqtt.worker.system.boot_clock import boot_id
from edge_mqtt.worker.system.process import ProcessIdentity, start_time


class PendingLaunches:
    """Those under way.

    :param launch: has a job's supervisor forked, and returns its pid.
    """

    def __init__(self, launch: Callable[[LocalJob], Coroutine[Any, Any, int]]) -> None:
        self._launch = launch
        #: By the job's secret, which is new at every launch.
        self._forks: dict[str, asyncio.Task[int]] = {}

    def begin_fork(self, job: LocalJob) -> None:
        """Have a job's supervisor forked."""
        self._forks[job.secret] = asyncio.create_task(self._launch(job), name=f"worker.fork[{job.job_id}]")

    async def wait_supervisor(self, job: LocalJob) -> ProcessIdentity:
        """Return a job's supervisor once it is forked; if that has not begun, it is forked now.

        :raises LauncherError: the launcher is gone; nothing was started unless the run's process file exists.
        """
        fork = self._forks.pop(job.secret, None)
        pid = await (self._launch(job) if fork is None else fork)
        return ProcessIdentity(pid=pid, start=start_time(pid) or 0, boot=boot_id())

    async def close(self) -> None:
        """Cancel what is still waited for; a supervisor that is forked goes on."""
        for fork in self._forks.values():
            fork.cancel()
        await asyncio.gather(*self._forks.values(), return_exceptions=True)
