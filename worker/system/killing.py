"""How what a run has started is ended: asked first, then killed; and whether it is gone then.

A supervisor is the subreaper of what it starts (prctl(2)): until it ends itself, all of that is below it, in whatever
session. A task under ``run_as_user`` is another user's: what made it so, sudo, is what signals it. Where the run has
a control group, that reaches everybody.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import psutil

from edge_mqtt.worker.system.boot_clock import boot_id
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.process import ProcessIdentity, signal_process, start_time

#: Seconds that a process gets to be gone after a SIGKILL: it is written to disk only by what hangs in the kernel.
GONE_WAIT_S: Final = 1.0
#: Seconds between looks meanwhile.
_LOOK_S: Final = 0.01
#: Seconds that sudo may take.
_SUDO_LIMIT_S: Final = 10.0
#: What every shell and sudoers rule for ``run_as_user`` allows: this Python.
_KILL: Final = """
import os, sys
for pid in sys.argv[2:]:
    try:
        os.kill(int(pid), int(sys.argv[1]))
    except OSError:
        pass
"""
_PR_SET_CHILD_SUBREAPER: Final = 36


@dataclass(frozen=True, kw_only=True, slots=True)
class Killed:
    """What a kill came to."""

    #: How many processes are gone by it.
    count: int = 0
    #: What is still there, in words: pid, user and name of each. Empty when all is gone.
    left: tuple[str, ...] = ()
    #: Why, as far as somebody said so.
    reason: str = ""

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"{', '.join(self.left)}{why}"


NOTHING: Final = Killed()


def become_subreaper() -> None:
    """Have what this process's descendants leave behind become its children, and no other process's."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def reap_adopted(own: int) -> bool:
    """Bury the children of this process that have ended, but for ``own``, whom somebody else waits for.

    :return: whether there are any that live.
    """
    try:
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            if ended.si_pid == own:
                return True
            os.waitpid(ended.si_pid, os.WNOHANG)
    except ChildProcessError:
        return False
    return True


def ask_to_end(identity: ProcessIdentity) -> None:
    """Send SIGTERM to a task, and to what is in its process group, as Airflow's own supervisor does.

    The task gets it from its supervisor, which so knows that it is meant to end.
    """
    if not identity.is_alive():
        return
    below = descendants(identity.pid)
    # What a task has left is the supervisor's child too, and came later.
    tasks = [process for process in below if _leads_group_below(process, identity.pid)]
    task = min(tasks, key=lambda process: start_time(process.pid) or 0, default=None)
    if task is None:
        signal_process(identity, signal.SIGTERM)
        return
    first = _behind_sudo(task)
    others = [each for each in below if each.pid != task.pid and _group(each) == task.pid and not _is_sudo(each)]
    if first.pid == task.pid and _may_signal(task.pid):
        signal_process(identity, signal.SIGTERM)
    elif first not in others:
        # Its supervisor would break down over a task that it may not signal.
        others.append(first)
    send_signal(others, signal.SIGTERM)


def kill_below(identity: ProcessIdentity, group: RunCgroup) -> Killed:
    """Kill everything that a supervisor and its task started, and not the supervisor."""
    return _kill_all(lambda: _of_run(identity, group), group) if identity.is_alive() else NOTHING


def kill_tree(identity: ProcessIdentity, group: RunCgroup) -> Killed:
    """Kill a supervisor, its task and everything that they started; the supervisor only when the rest is gone."""
    killed = kill_below(identity, group)
    if not killed.left:
        signal_process(identity, signal.SIGKILL)
    return killed


def kill_orphans(identity: ProcessIdentity, group: RunCgroup) -> Killed:
    """Kill what a supervisor that is dead has left behind.

    Its session tells: the kernel gives out no pid that a session still has as its id. Its control group tells all.
    """
    if identity.boot != boot_id() or start_time(identity.pid) is not None:
        return NOTHING
    killed = _kill_all(lambda: _of_run(identity, group), group)
    group.remove()
    return killed


def descendants(pid: int) -> list[psutil.Process]:
    """Return every process below ``pid``, those nearer to it first."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def send_signal(processes: Iterable[psutil.Process], signum: signal.Signals) -> str:
    """Send a signal to processes, by way of sudo to those that are not ours; return what sudo said against it."""
    others: dict[int, list[int]] = {}
    for process in processes:
        try:
            process.send_signal(signum)
        except psutil.NoSuchProcess:
            continue
        except psutil.AccessDenied:
            with contextlib.suppress(psutil.Error):
                others.setdefault(process.uids().real, []).append(process.pid)
    return "; ".join(filter(None, [_send_as(uid, pids, signum) for uid, pids in others.items()]))


def _send_as(uid: int, pids: list[int], signum: signal.Signals) -> str:
    if uid == 0:
        return ""  # That is sudo itself, mostly, which ends with what it runs.
    command = ["sudo", "-n", "-u", _user(uid), sys.executable, "-ISc", _KILL, str(int(signum)), *map(str, pids)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SUDO_LIMIT_S, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"sudo: {error}"
    said = done.stderr.strip().splitlines()
    return said[-1] if done.returncode and said else ""


def _kill_all(find: Callable[[], dict[int, psutil.Process]], group: RunCgroup) -> Killed:
    """Kill what ``find`` finds until it finds nothing."""
    deadline = time.monotonic() + GONE_WAIT_S
    seen: set[int] = set()
    reason = ""
    while found := find():
        seen |= found.keys()
        if time.monotonic() >= deadline:
            left = tuple(_describe(process) for process in found.values())
            return Killed(count=len(seen - found.keys()), left=left, reason=reason)
        group.kill()
        reason = send_signal([process for pid, process in found.items() if _lives(pid)], signal.SIGKILL)
        while any(_lives(pid) for pid in found) and time.monotonic() < deadline:
            time.sleep(_LOOK_S)
    return Killed(count=len(seen))


def _of_run(identity: ProcessIdentity, group: RunCgroup) -> dict[int, psutil.Process]:
    """Return what lives of a run, without its supervisor."""
    found = {process.pid: process for process in descendants(identity.pid)}
    for pid in group.pids():
        with contextlib.suppress(psutil.Error):
            found[pid] = psutil.Process(pid)
    for process in psutil.process_iter():
        with contextlib.suppress(OSError):
            if os.getsid(process.pid) == identity.pid:
                found[process.pid] = process
    return {pid: process for pid, process in found.items() if pid != identity.pid and _lives(pid)}


def _lives(pid: int) -> bool:
    return start_time(pid) is not None


def _leads_group_below(process: psutil.Process, parent: int) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        is_child = process.ppid() == parent and _lives(process.pid)
        return is_child and _group(process) == process.pid and os.getsid(process.pid) == os.getsid(parent)
    return False


def _group(process: psutil.Process) -> int | None:
    try:
        return os.getpgid(process.pid)
    except OSError:
        return None


def _behind_sudo(task: psutil.Process) -> psutil.Process:
    """Return the task itself, where it has become a sudo that runs it."""
    while _is_sudo(task):
        with contextlib.suppress(psutil.Error):
            if children := task.children():
                task = children[0]
                continue
        break
    return task


def _is_sudo(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.name() == "sudo"
    return False


def _may_signal(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return False
    except ProcessLookupError:
        return True
    return True


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"#{uid}"


def _describe(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return f"{process.pid} ({_user(process.uids().real)}, {process.name()})"
    return str(process.pid)
