"""The worker's first launcher: forked from the worker itself, so that both share the memory that they take.

Airflow is loaded before the fork, and the worker does not use it, so that its copy stays the launcher's. A launcher
that has to be replaced is a program of its own (:mod:`edge_mqtt.worker.launcher.spawned`): by then the worker has
threads, and must not be forked.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

import psutil
from setproctitle import getproctitle

from edge_mqtt.broker_bridge.program.airflow_cfg import configuration_fault
from edge_mqtt.broker_bridge.program.settings.setting import SettingError
from edge_mqtt.broker_bridge.program.settings.sources import Snapshot
from edge_mqtt.worker.errors import ConfigurationError, LauncherError
from edge_mqtt.worker.launcher.environment import launcher_environment
from edge_mqtt.worker.launcher.started import AIRFLOW_UNUSABLE, END_WAIT_S
from edge_mqtt.worker.launcher.threads import other_threads

_STDIN: Final = 0
_STDOUT: Final = 1
_STDERR: Final = 2


@contextlib.contextmanager
def loaded_airflow() -> Iterator[Airflow]:
    """Load Airflow, for a launcher that is forked meanwhile; it leaves this process with a task's environment.

    :raises ConfigurationError: Airflow's configuration cannot be used.
    :raises SettingError: one of the settings that the worker reads cannot be read.
    :raises LauncherError: Airflow cannot be loaded; why is on stderr.
    """
    try:
        with _logging_kept(), _nothing_on_stdout():
            before = _open_files()
            settings = _load_airflow()
            open_files = _open_files() - before
            yield Airflow(settings=settings, open_files=open_files, threads=other_threads())
    finally:
        gc.enable()


@dataclass(frozen=True, kw_only=True, slots=True)
class Airflow:
    """What is known of Airflow in this process."""

    #: What the worker goes by.
    settings: Snapshot
    #: Descriptors that belong to it.
    open_files: frozenset[int]
    #: Threads that it has started, by their names.
    threads: tuple[str, ...] = ()


class ForkedLauncher:
    """The process, started and not yet spoken to. Create it while the program has one thread and holds no secret."""

    def __init__(self, airflow: Airflow) -> None:
        self.channel, theirs = socket.socketpair()
        with theirs:
            pid = os.fork()
            if pid == 0:
                self.channel.close()
                _be_launcher(theirs, airflow)
        self._process: Final = psutil.Process(pid)

    def kill(self) -> None:
        """End it."""
        self._process.kill()

    def wait_end(self) -> None:
        """Wait a moment for its end."""
        with contextlib.suppress(psutil.Error):
            self._process.wait(END_WAIT_S)


def _load_airflow() -> Snapshot:
    """Return the settings that the worker goes by."""
    # Titles go where the arguments and the environment were at the start: not to be found once the latter changes.
    getproctitle()
    environment = launcher_environment(os.environ)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    if not sys.flags.safe_path:
        # No folder of the person who starts the worker may shadow a module of Airflow or of a Dag.
        del sys.path[0]
    try:
        from edge_mqtt.worker.launcher.preload import preload_airflow

        return preload_airflow()
    except SettingError:
        raise
    except (Exception, SystemExit) as error:
        fault = configuration_fault(error)
        if fault is not None:
            raise ConfigurationError(fault) from error
        traceback.print_exc()
        raise LauncherError(AIRFLOW_UNUSABLE) from error


def _be_launcher(channel: socket.socket, airflow: Airflow) -> NoReturn:
    code = 1
    try:
        os.setsid()
        # What the worker was started with, and has opened.
        for descriptor in _open_files() - airflow.open_files - {channel.fileno()}:
            with contextlib.suppress(OSError):  # That of the folder in which they stand is closed by now.
                if not _is_library(descriptor):
                    os.close(descriptor)
        os.dup2(_STDOUT, _STDIN)  # There is nothing in it.
        from edge_mqtt.worker.launcher.main import ForkServer, become_launcher

        become_launcher()
        ForkServer(channel, airflow.threads).serve()
        code = 0
    except BaseException:  # noqa: BLE001 -- the process ends here, whatever it is
        with contextlib.suppress(OSError):
            traceback.print_exc()
    finally:
        os._exit(code)


def _is_library(descriptor: int) -> bool:
    """Tell whether a library is open there.

    A newer libffi keeps its own file open and maps it again when there are many callbacks. Without it a task that
    makes them with ctypes fails, or crashes where another file has the number by then.

    :raises OSError: there is no such descriptor.
    """
    return ".so" in Path(f"/proc/self/fd/{descriptor}").readlink().suffixes


def _open_files() -> frozenset[int]:
    return frozenset(number for path in Path("/proc/self/fd").iterdir() if (number := int(path.name)) > _STDERR)


@contextlib.contextmanager
def _nothing_on_stdout() -> Iterator[None]:
    """Keep what Airflow says while it is loaded to ourselves: on stderr is what concerns the user."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:  # It was closed when the program was started, and what is opened first takes its number.
        os.dup2(nowhere, _STDOUT)
        sys.stdout = os.fdopen(_STDOUT, "w", encoding="utf-8", closefd=False)
    kept = os.dup(_STDOUT)
    os.dup2(nowhere, _STDOUT)
    if nowhere != _STDOUT:
        os.close(nowhere)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, _STDOUT)
        os.close(kept)


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Undo what Airflow does to what is logged here, in the process that comes out at the end."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
