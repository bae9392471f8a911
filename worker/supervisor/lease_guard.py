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
from edge_mqtt.worker.system.process import ProcessIdentity, kill_below

LOOK_S: Final = 2.0
#: Send us a signal when our parent ends (prctl(2)).
_PR_SET_PDEATHSIG: Final = 1


def guard_own_lease(request: RunRequest, launcher_pid: int) -> None:
    """Kill this process and its task when the lease ends and the launcher, which would do it, is no more.

    By signals, which also come while a call waits for an answer. They are not the task's, whose own timeouts use the
    same one: a fork inherits neither (prctl(2), setitimer(2)).

    :param launcher_pid: the pid of our parent when we were forked.
    """
    contact: Contact | None = None

    def look(_signum: int, _frame: FrameType | None) -> None:
        nonlocal contact
        now = boottime()
        contact = read_contact(Path(request.runs_dir), now=now) or contact
        if due(contact, lease_s=request.lease_s, now=now) is Due.KILL:
            kill_below(ProcessIdentity.of_this())
            os.kill(os.getpid(), signal.SIGKILL)
        signal.setitimer(signal.ITIMER_REAL, LOOK_S)

    signal.signal(signal.SIGALRM, look)
    # Whatever waits in a library goes on waiting.
    signal.siginterrupt(signal.SIGALRM, False)
    os.register_at_fork(after_in_child=_leave_to_the_task)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGALRM))
    if os.getppid() != launcher_pid:
        signal.setitimer(signal.ITIMER_REAL, LOOK_S)


def _leave_to_the_task() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
