"""How a running supervisor is stopped: SIGTERM for its task first, SIGKILL for all that it started in the end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from edge_mqtt.worker.ipc.run_files import RunFiles
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.killing import Killed, ask_to_end, kill_below, kill_tree
from edge_mqtt.worker.system.oom import oom_kills
from edge_mqtt.worker.system.process import ProcessIdentity
from edge_mqtt.worker.timing import WorkerTiming


@dataclass(slots=True)
class RunningSupervisor:
    """A supervisor that is alive, as far as we know."""

    identity: ProcessIdentity
    files: RunFiles
    #: This worker's launcher forked it, and will tell how it ended.
    is_ours: bool
    #: Processes that the kernel had killed by then because memory ran out.
    oom_kills: int = field(default_factory=oom_kills)
    exited: asyncio.Event = field(default_factory=asyncio.Event)
    #: Why it is being stopped.
    stop_reason: str | None = None
    #: Heartbeats are refused now.
    is_refused: bool = False
    stopping: asyncio.Task[None] | None = None
    #: What could not be killed, as people were told.
    told_left: tuple[str, ...] = ()

    @property
    def group(self) -> RunCgroup:
        """The run's control group."""
        return RunCgroup.of(self.files.run)


async def stop_supervisor(
    supervisor: RunningSupervisor, grace_s: float, timing: WorkerTiming, tell: Callable[[Killed], None]
) -> None:
    """Stop a supervisor and its task; return when it has ended, however long something cannot be killed.

    :param grace_s: seconds between SIGTERM and SIGKILL.
    :param tell: is told what a SIGKILL did not end.
    """
    loop = asyncio.get_running_loop()
    kill_at = loop.time() + grace_s
    supervisor.files.ask_stop(boottime() + grace_s)
    # Airflow's supervisor passes it on to the task, whose operator cleans up (on_kill) and may end by itself.
    await asyncio.to_thread(ask_to_end, supervisor.identity)
    if await _has_exited(supervisor, grace_s - timing.refused_before_kill_s):
        return
    # Most tasks do not end on SIGTERM. Told that its task must not go on, Airflow's supervisor takes its end for
    # what was wanted: it writes so into the task's log, asks the bridge nothing and ends in good order.
    supervisor.is_refused = True
    if await _has_exited(supervisor, kill_at - loop.time()):
        return
    killed = await asyncio.to_thread(kill_below, supervisor.identity, supervisor.group)
    wait_s = timing.supervisor_end_s
    while not await _has_exited(supervisor, wait_s):
        if killed.left:
            tell(killed)
        # It goes on for as long as anything of its task is there, and the slot is taken.
        killed = await asyncio.to_thread(kill_tree, supervisor.identity, supervisor.group)
        wait_s = timing.kill_repeat_s


async def _has_exited(supervisor: RunningSupervisor, timeout_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, timeout_s)):
            await supervisor.exited.wait()
    return supervisor.exited.is_set()
