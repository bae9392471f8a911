"""The launcher's learning: hears what tasks imported by themselves, and imports it ahead of the next ones.

What does harm is found out in a process of its own first. One launcher writes the file in the state folder: the one
whose worker is there.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from setproctitle import setproctitle

from edge_mqtt.worker.config import PRELOAD_LEARNED, SECTION
from edge_mqtt.worker.core.imports import Learned, Report, Trial
from edge_mqtt.worker.launcher.learned_report import tell_imports
from edge_mqtt.worker.launcher.learned_trial import Footprint, import_or_why_not, room_kb, try_imports
from edge_mqtt.worker.system.files import write_atomically

QUIET_S: Final = 5.0
#: Bytes of one task's report at most, which is what fits into a socket by default (``wmem_default``).
REPORT_BYTES: Final = 212_992
#: Trials in a launcher's life at most: each ends at a module that does harm. The next launcher goes on.
MOST_TRIALS: Final = 16


def imports_file(runs_dir: Path) -> Path:
    """Return where it stands what tasks import, next to the runs' folder."""
    return runs_dir.with_name("imports.json")


def _is_wanted() -> bool:
    from airflow.sdk.configuration import conf

    return bool(conf.getboolean(SECTION, PRELOAD_LEARNED, fallback=True))


class Learner:
    """Belongs to the launcher and lives in its one thread."""

    def __init__(self) -> None:
        self._learned = Learned()
        self._file: Path | None = None
        self._room_kb = room_kb()
        self._imported: set[str] = set()
        #: What is wanted and not there yet.
        self._missing: list[str] = []
        self._trials = MOST_TRIALS
        self._trial_pid = 0
        self._trial_output = -1
        #: Where tasks' reports arrive, and where they are sent to.
        self.ear, self._mouth = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ear.setblocking(False)

    def begin(self, runs_dir: Path) -> None:
        """Go on from what earlier launchers of this worker have learned; unless nothing is to be learned."""
        if not _is_wanted():
            return
        self._file = imports_file(runs_dir)
        with contextlib.suppress(OSError):
            self._learned = Learned.from_json(self._file.read_bytes(), now=time.time())
        self._store()

    def retire(self) -> None:
        """Leave the file, and all learning, to the launcher of the next worker."""
        if self._file is not None and self._trial_pid:
            os.kill(self._trial_pid, signal.SIGKILL)
        self._file = None

    def tell_imports(self) -> None:
        """Let the task of this process, which is a supervisor's, tell what it imports."""
        if self._file is not None:
            tell_imports(self._mouth, self._learned)

    # ------------------------------------------------------------ hear

    def hear(self) -> None:
        """Take in what tasks have told."""
        with contextlib.suppress(BlockingIOError):
            while data := self.ear.recv(REPORT_BYTES):
                with contextlib.suppress(ValueError):
                    self._learned.note(Report.from_json(data), now=time.time())
        self._store()

    def _store(self) -> None:
        self._missing = [name for name in self._learned.wanted() if name not in sys.modules]
        if self._file is not None:
            with contextlib.suppress(OSError):  # It is only worth some CPU.
                write_atomically(self._file, self._learned.to_json(), durable=False)

    # ------------------------------------------------------------ try

    @property
    def patience_s(self) -> float | None:
        """Seconds of quiet that are waited for; None while there is nothing to do."""
        ready = self._file is not None and self._trials > 0 and not self._trial_pid
        return QUIET_S if ready and self._missing else None

    def try_missing(self, leave_launcher: Callable[[], None]) -> None:
        """Import what is missing in a process of its own, if anything is.

        :param leave_launcher: makes the new process somebody else than the launcher.
        """
        if self.patience_s is None:
            return
        self._trials -= 1
        self._trial_output = os.memfd_create("trial")
        self._trial_pid = os.fork()
        if self._trial_pid == 0:
            try:
                leave_launcher()
                setproctitle("edge-worker: trial of imports")
                try_imports(self._missing, self._trial_output, self._room_kb)
            finally:
                os._exit(0)

    @property
    def trial_pid(self) -> int:
        """The trial that is under way; 0 if there is none."""
        return self._trial_pid

    def trial_ended(self) -> tuple[list[str], dict[str, str]]:
        """Import what the trial has shown to be harmless; return that, and what is refused and why."""
        self._trial_pid = 0
        os.lseek(self._trial_output, 0, os.SEEK_SET)
        with os.fdopen(self._trial_output, encoding="utf-8") as output:
            trial = Trial.from_lines(output.read().splitlines())
        if not trial.good and not trial.bad:
            self._trials = 0  # It could not even begin: this machine lets us see too little of our own processes.
        refused = {trial.bad: trial.reason} if trial.bad else {}
        before = Footprint.of_this_process()
        for name, kilobytes in trial.good:
            self._room_kb -= kilobytes
            if reason := import_or_why_not(name, before):
                refused[name] = reason
        gc.freeze()
        for name, reason in refused.items():
            self._learned.refuse(name, reason, now=time.time())
        imported = [name for name, _ in trial.good if name not in refused]
        self._imported.update(imported)
        # What comes along with others need not be remembered.
        self._learned.drop({name for name in self._learned.wanted() if name in sys.modules} - self._imported)
        self._store()
        return imported, refused
