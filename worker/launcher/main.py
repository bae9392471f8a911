"""The launcher's process: has Airflow loaded, and forks a supervisor for every request that it reads.

It has one thread and never starts another, so that forking it is safe. Requests and reports are JSON documents on one
socket to the worker (:mod:`edge_mqtt.worker.ipc.framing`). When the worker is gone the launcher stays until its
supervisors have ended, and stops each when its lease ends.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from edge_mqtt.worker.core.lease import Contact, Due, due
from edge_mqtt.worker.ipc.contact_file import read_contact
from edge_mqtt.worker.ipc.framing import frame_document, read_document
from edge_mqtt.worker.ipc.run_files import RunFiles
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.launcher.bundle_versions import CleanupTimer, delete_old_versions, has_versions
from edge_mqtt.worker.launcher.preload_imports import preload_modules, seed_again
from edge_mqtt.worker.launcher.settings import cleanup_interval_s, modules_to_preload
from edge_mqtt.worker.launcher.threads import other_threads
from edge_mqtt.worker.system.boot_clock import boot_id, boottime
from edge_mqtt.worker.system.cgroup import RunCgroup, delegated_cgroup
from edge_mqtt.worker.system.files import redirect_output
from edge_mqtt.worker.system.killing import ask_to_end, kill_orphans, kill_tree
from edge_mqtt.worker.system.process import ProcessIdentity, start_time

#: Seconds between looks at the leases while the worker is gone.
GUARD_INTERVAL_S: Final = 1.0


def become_launcher() -> None:
    """Let this process be known as the launcher, and leave signals to the worker."""
    from setproctitle import setproctitle

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the worker's terminal is the worker's business.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # So is a service manager's SIGTERM to the whole group.
    setproctitle("edge-worker: launcher")


@dataclass(slots=True)
class _Child:
    """A supervisor."""

    identity: ProcessIdentity
    files: RunFiles
    #: Seconds that it may go on after a confirmed contact with the bridge.
    lease_s: float
    asked_to_stop: bool = False

    @property
    def group(self) -> RunCgroup:
        """The run's control group."""
        return RunCgroup.of(self.files.run)


class ForkServer:
    """Forks, reaps and reports.

    :param threads: the names of those that the process that was forked to be this one had beside its first.
    """

    def __init__(self, channel: socket.socket, threads: tuple[str, ...] = ()) -> None:
        self._channel = channel
        self._threads = threads
        #: Where the runs' files and the worker's last contact are; requests name it.
        self._runs_dir: Path | None = None
        #: The last contact that could be read. Without any, nothing may run once the worker is gone.
        self._contact: Contact | None = None
        self._children: dict[int, _Child] = {}
        #: Supervisors that have ended, of which something could not be killed.
        self._unfinished: list[_Child] = []
        #: Deletes old versions of Dag bundles.
        self._cleanup_pid: int | None = None
        self._worker_is_there = True
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Work until the worker is gone and every supervisor has ended."""
        left_out = preload_modules(modules_to_preload())
        cleanup = CleanupTimer(cleanup_interval_s())
        delegated_cgroup()  # Supervisors need not look for it.
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._report(ready=True, left_out=left_out, threads=sorted({*self._threads, *other_threads()}))
        while self._worker_is_there or self._children or self._unfinished:
            for key, _ in self._selector.select(cleanup.wait_s() if self._worker_is_there else GUARD_INTERVAL_S):
                if key.fileobj is self._channel:
                    self._read_request()
                else:
                    self._drain_wakeups()
            self._reap()
            if not self._worker_is_there:
                self._guard_leases()
            elif cleanup.is_due():
                self._begin_cleanup()

    def _begin_cleanup(self) -> None:
        """Have old versions of Dag bundles deleted, in a process of its own, which gives its memory back."""
        if self._cleanup_pid is not None or not has_versions():
            return
        self._cleanup_pid = os.fork()
        if self._cleanup_pid == 0:
            self._end_child_after(_clean_up)

    def _read_request(self) -> None:
        data = read_document(self._channel)
        if data is None:
            self._worker_is_there = False
            self._selector.unregister(self._channel)
            return
        request = RunRequest.from_json(data)
        if self._runs_dir is None:
            self._runs_dir = Path(request.runs_dir)
            # From here on we may outlive the worker, whose terminal or pipe must not be held open by us.
            redirect_output(self._runs_dir / "launcher.out")
        launcher_pid = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_supervisor(request, launcher_pid)
        # The child may be gone by now, but not reaped: its pid is its own.
        identity = ProcessIdentity(pid=pid, start=start_time(pid) or 0, boot=boot_id())
        self._children[pid] = _Child(identity, request.files, request.lease_s)
        self._report(launched=request.job_id, fence=request.fence, pid=pid)

    def _shed_launcher(self) -> None:
        """Keep nothing of the launcher: this is a process that it has forked."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        self._selector.close()
        for end in (self._channel, self._wake_read, self._wake_write):
            end.close()

    def _become_supervisor(self, request: RunRequest, launcher_pid: int) -> NoReturn:
        def supervise() -> int:
            seed_again()
            nowhere = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nowhere, 0)
            os.close(nowhere)
            from edge_mqtt.worker.supervisor.main import run_job

            return run_job(request, launcher_pid)

        self._end_child_after(supervise)

    def _end_child_after(self, work: Callable[[], int]) -> NoReturn:
        """Be a process that was forked for some work, and end with its exit code."""
        code = 1
        try:
            self._shed_launcher()
            gc.enable()
            code = work()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os._exit(code)

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._wake_read.recv(4096):
                pass

    def _reap(self) -> None:
        while self._children or self._cleanup_pid is not None:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._cleanup_pid:
                self._cleanup_pid = None
                continue
            child = self._children.pop(pid, None)
            if status and child is not None:
                # It was killed, so its task was not. The worker that would see to that may be dead.
                self._unfinished += self._kill_left([child])
            self._report(exited=pid, code=os.waitstatus_to_exitcode(status))

    def _report(self, **document: Any) -> None:
        if not self._worker_is_there:
            return
        try:
            self._channel.sendall(frame_document(json.dumps(document).encode()))
        except OSError:
            self._worker_is_there = False
            self._selector.unregister(self._channel)

    def _guard_leases(self) -> None:
        now = boottime()
        if self._runs_dir is not None:
            self._contact = read_contact(self._runs_dir, now=now) or self._contact
        self._unfinished = self._kill_left(self._unfinished)
        for child in list(self._children.values()):
            todo = due(self._contact, lease_s=child.lease_s, now=now)
            if todo is Due.KILL:
                kill_tree(child.identity, child.group)
            elif todo is Due.STOP and self._contact is not None and not child.asked_to_stop:
                child.asked_to_stop = True
                child.files.ask_stop(self._contact.lease(child.lease_s).kill_at)
                ask_to_end(child.identity)

    @staticmethod
    def _kill_left(children: list[_Child]) -> list[_Child]:
        """Kill what supervisors have left that are dead; return those of which something is left even then."""
        return [child for child in children if kill_orphans(child.identity, child.group).left]


def _clean_up() -> int:
    delete_old_versions()
    return 0
