"""The launcher's process: has Airflow loaded, and forks a supervisor for every order that it reads.

It has one thread and never starts another, so that forking it is safe. Orders and reports are JSON documents, each
behind its length in four bytes, on one socket to the worker. When the worker is gone the launcher stays until its
supervisors have ended, and stops each when its lease ends: nobody else could.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from edge_mqtt.worker.core.lease import Contact, Due, due
from edge_mqtt.worker.ipc.run_files import contact_file
from edge_mqtt.worker.ipc.run_request import RunRequest
from edge_mqtt.worker.launcher.preload_imports import preload_modules, seed_again
from edge_mqtt.worker.launcher.settings import modules_to_preload
from edge_mqtt.worker.system.boot_clock import boot_id, boottime
from edge_mqtt.worker.system.files import redirect_output
from edge_mqtt.worker.system.process import ProcessIdentity, kill_orphans, kill_tree, signal_process, start_time

LENGTH: Final = struct.Struct("!I")
#: Seconds between looks at the leases while the worker is gone.
GUARD_INTERVAL_S: Final = 1.0


def main(descriptor: int) -> None:
    """Load Airflow, and serve the worker at the other end of ``descriptor``."""
    become_launcher()
    from edge_mqtt.worker.launcher.preload import preload

    preload()
    ForkServer(socket.socket(fileno=descriptor)).serve()


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
    #: Seconds that it may go on after a confirmed contact with the centre.
    lease_s: float
    asked_to_stop: bool = False


class ForkServer:
    """Forks, reaps and reports."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        #: Where the runs' files and the worker's last contact are; orders name it.
        self._runs_dir: Path | None = None
        #: The last contact that could be read. Without any, nothing may run once the worker is gone.
        self._contact: Contact | None = None
        self._children: dict[int, _Child] = {}
        self._worker_is_there = True
        self._wake_read, self._wake_write = socket.socketpair()
        self._selector = selectors.DefaultSelector()

    def serve(self) -> None:
        """Work until the worker is gone and every supervisor has ended."""
        left_out = preload_modules(modules_to_preload())
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)
        self._selector.register(self._channel, selectors.EVENT_READ)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._report(ready=True, left_out=left_out)
        while self._worker_is_there or self._children:
            for key, _ in self._selector.select(None if self._worker_is_there else GUARD_INTERVAL_S):
                if key.fileobj is self._channel:
                    self._read_order()
                else:
                    self._drain_wakeups()
            self._reap()
            if not self._worker_is_there:
                self._guard_leases()

    def _read_order(self) -> None:
        data = read_document(self._channel)
        if data is None:
            self._worker_is_there = False
            self._selector.unregister(self._channel)
            return
        order = RunRequest(**json.loads(data))
        if self._runs_dir is None:
            self._settle_in(Path(order.runs_dir))
        launcher = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become_supervisor(order, launcher)
        # The child may be gone by now, but not reaped: its pid is its own.
        identity = ProcessIdentity(pid=pid, start=start_time(pid) or 0, boot=boot_id())
        self._children[pid] = _Child(identity, order.lease_s)
        self._report(launched=order.job_id, fence=order.fence, pid=pid)

    def _settle_in(self, runs_dir: Path) -> None:
        self._runs_dir = runs_dir
        # From here on we may outlive the worker, whose terminal or pipe must not be held open by us.
        redirect_output(runs_dir / "launcher.out")

    def _leave(self) -> None:
        """Be the launcher no longer: this is a process that it has forked."""
        os.setsid()
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        self._selector.close()
        for end in (self._channel, self._wake_read, self._wake_write):
            end.close()

    def _become_supervisor(self, order: RunRequest, launcher: int) -> NoReturn:
        code = 1
        try:
            self._leave()
            seed_again()
            nowhere = os.open(os.devnull, os.O_RDONLY)
            os.dup2(nowhere, 0)
            os.close(nowhere)
            gc.enable()
            from edge_mqtt.worker.supervisor.main import run

            code = run(order, launcher)
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
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None)
            if status and child is not None:
                # It was killed, so its task was not. The worker that would see to that may be dead.
                kill_orphans(child.identity)
            self._report(exited=pid, code=os.waitstatus_to_exitcode(status))

    def _report(self, **document: Any) -> None:
        if not self._worker_is_there:
            return
        try:
            self._channel.sendall(framed(json.dumps(document).encode()))
        except OSError:
            self._worker_is_there = False
            self._selector.unregister(self._channel)

    def _guard_leases(self) -> None:
        now = boottime()
        if self._runs_dir is not None:
            self._contact = Contact.from_json(_read(contact_file(self._runs_dir)), now=now) or self._contact
        for child in list(self._children.values()):
            todo = due(self._contact, lease_s=child.lease_s, now=now)
            if todo is Due.KILL:
                kill_tree(child.identity)
            elif todo is Due.STOP and not child.asked_to_stop:
                child.asked_to_stop = True
                signal_process(child.identity, signal.SIGTERM)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def framed(document: bytes) -> bytes:
    """Return ``document`` behind its length."""
    return LENGTH.pack(len(document)) + document


def read_document(channel: socket.socket) -> bytes | None:
    """Return the next document; None at the end."""
    header = _read_exactly(channel, LENGTH.size)
    if header is None:
        return None
    return _read_exactly(channel, LENGTH.unpack(header)[0])


def _read_exactly(channel: socket.socket, size: int) -> bytes | None:
    data = bytearray()
    while len(data) < size:
        try:
            piece = channel.recv(size - len(data))
        except ConnectionError:
            return None
        if not piece:
            return None
        data += piece
    return bytes(data)
