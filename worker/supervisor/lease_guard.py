"""The last guard of a job's lease: its own supervisor, when worker and launcher have both been killed.

Its calls have no answer then, and no other process would end its task before the bridge lets the next try begin.
"""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Final

from edge_mqtt.worker.core.lease import Contact, Due, due
from edge_mqtt.worker.ipc.contact_file import read_contact
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.system.boot_clock import boottime
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.killing import kill_below
from edge_mqtt.worker.system.process import ProcessIdentity

LOOK_S: Final = 2.0
#: Send us a signal when our parent ends (prctl(2)).
_PR_SET_PDEATHSIG: Final = 1


def guard_own_lease(request: RunRequest, group: RunCgroup, launcher_pid: int) -> None:
    """Kill this process and its task when the lease ends and the launcher, which would do it, is no more.

    By signals, which also come while a call waits for an answer. They are not the task's, whose own timeouts use the
    same one: a fork inherits neither (prctl(2), setitimer(2)), and :func:`leave_lease_guard` is for the handler.

    :param group: the run's.
    :param launcher_pid: the pid of our parent when we were forked.
    """
    contact: Contact | None = None

    def look(_signum: int, _frame: FrameType | None) -> None:
        nonlocal contact
        now = boottime()
        contact = read_contact(Path(request.runs_dir), now=now) or contact
        is_over = due(contact, lease_s=request.lease_s, now=now) is Due.KILL
        if is_over and not kill_below(ProcessIdentity.of_this(), group).left:
            os.kill(os.getpid(), signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, LOOK_S)

    signal.signal(signal.SIGALRM, look)
    # Whatever waits in a library goes on waiting.
    signal.siginterrupt(signal.SIGALRM, False)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGALRM))
    if os.getppid() != launcher_pid:
        signal.setitimer(signal.ITIMER_REAL, LOOK_S)


def leave_lease_guard() -> None:
    """Leave the signal to user code, in a process that was forked for it."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
