"""The end of a run: what its task has left is killed, unless it has been left on purpose.

A task that ends by itself and does not fail may leave a daemon behind, as with every other executor. What a failed or
a stopped one leaves would be met by its next try.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.logs.log_file import append_line
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.killing import Killed, kill_below, reap_adopted
from edge_mqtt.worker.system.process import ProcessIdentity

#: Seconds between looks at what was asked to end and has time left.
LOOK_S: Final = 0.05
#: Seconds between attempts to kill what cannot be killed.
REPEAT_S: Final = 5.0
LEFT: Final = "These processes of the task cannot be killed; its slot stays taken until they are gone: {}"


def sweep_run(
    request: RunRequest,
    group: RunCgroup,
    *,
    ended_well: bool,
    kill: Callable[[ProcessIdentity, RunCgroup], Killed] = kill_below,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return when nothing is left of the run but this process, its supervisor, and what may be left.

    :param ended_well: the task has ended by itself and has not failed.
    """
    until = request.files.stop_asked()
    told: tuple[str, ...] = ()
    while _is_any_left() and (until is not None or not ended_well):
        if until is not None and boottime() < until:
            # They got SIGTERM too.
            sleep(LOOK_S)
            continue
        killed = kill(ProcessIdentity.of_this(), group)
        if killed.left:
            if killed.left != told:
                _tell(request, killed)
                told = killed.left
            sleep(REPEAT_S)
    group.remove()


def _is_any_left() -> bool:
    # Nobody waits for any child of this process any more.
    return reap_adopted(0)


def _tell(request: RunRequest, killed: Killed) -> None:
    if request.log_path is None:
        return
    from airflow.sdk.configuration import conf

    append_line(Path(conf.get("logging", "base_log_folder")) / request.log_path, LEFT.format(killed))
