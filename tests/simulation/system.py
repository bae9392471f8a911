"""What the programs ask their operating system, answered by the simulation for as long as a run lasts."""

from __future__ import annotations

import contextlib
import logging
import secrets
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from typing import TYPE_CHECKING, Any, Self
from unittest import mock

from edge_mqtt.broker_bridge import bootstrap as bridge_bootstrap
from edge_mqtt.worker import app as worker_app
from edge_mqtt.worker.api.server import ExecutionApiServer
from edge_mqtt.worker.logs import log_file, shipper
from edge_mqtt.worker.runs import process_exit
from edge_mqtt.worker.system import boot_clock, killing, oom, process
from edge_mqtt.worker.system.cgroup import RunCgroup
from edge_mqtt.worker.system.killing import NOTHING, Killed
from edge_mqtt.worker.system.process import ProcessIdentity
from tests.simulation import bridge, scheduler
from tests.simulation.programs import Now
from tests.simulation.worker import RecordedSpool, Worker

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.machine import Machine
    from tests.simulation.world import World


def _machine() -> Machine:
    worker = Now.program
    assert isinstance(worker, Worker)
    return worker.machine


def _boot_id() -> str:
    return _machine().boot_id


def _start_time(pid: int) -> int | None:
    process = _machine().process(pid)
    return None if process is None or not process.alive else process.started


def _signal_process(identity: ProcessIdentity, signum: signal.Signals) -> bool:
    if not identity.is_alive():
        return False
    process = _machine().process(identity.pid)
    assert process is not None
    if signum is signal.SIGKILL:
        process.kill("SIGKILL by its worker")
    else:
        process.terminate("SIGTERM by its worker")
    return True


def _ask_to_end(identity: ProcessIdentity) -> None:
    _signal_process(identity, signal.SIGTERM)


def _kill(identity: ProcessIdentity, _group: RunCgroup) -> Killed:
    # A supervisor is its task here.
    process = _machine().process(identity.pid)
    if process is not None and identity.is_alive() and process.clings:
        process.let_go_later("SIGKILL by its worker")
    else:
        _signal_process(identity, signal.SIGKILL)
    return Killed(left=(f"{identity.pid}",)) if identity.is_alive() else NOTHING


def _kill_orphans(_identity: ProcessIdentity, _group: RunCgroup) -> Killed:
    return NOTHING


def _has_child(pid: int) -> bool:
    process = _machine().process(pid)
    return process is not None and process.alive


def _oom_kills() -> int:
    return 0


async def _wait_process_exit(identity: ProcessIdentity) -> None:
    if not identity.is_alive():
        return
    process = _machine().process(identity.pid)
    loop = _running_loop()
    assert process is not None
    exited = loop.create_future()

    def tell(_: object) -> None:
        loop.call_soon(_set, exited)

    process.exited.wait(tell)
    await exited


def _running_loop() -> asyncio.AbstractEventLoop:
    import asyncio

    return asyncio.get_running_loop()


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def _serve(self: ExecutionApiServer, _path: object) -> None:
    worker = Now.program
    assert isinstance(worker, Worker)
    worker.api = self


#: What the worker's modules have from those that ask the kernel, wherever they have imported it to.
_OF_THE_KERNEL: dict[str, Callable[..., Any]] = {
    "boot_id": _boot_id,
    "start_time": _start_time,
    "signal_process": _signal_process,
    "ask_to_end": _ask_to_end,
    "kill_tree": _kill,
    "kill_below": _kill,
    "kill_orphans": _kill_orphans,
    "has_child": _has_child,
    "oom_kills": _oom_kills,
    "wait_process_exit": _wait_process_exit,
}


class _Lines(logging.Handler):
    """What the programs log: lines of the trace; and what a program survives but never expected ends the run."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        """Take one line."""
        self._world.trace("%s: %s", record.name.removeprefix("edge_mqtt."), record.getMessage())
        if record.exc_info is not None and record.exc_info[1] is not None:
            self._world.clock.failure = self._world.clock.failure or record.exc_info[1]


def _no_watch(_: object) -> None:
    """Stand in for inotify, whose events would come in the real time of this machine."""
    raise OSError("there is no inotify here")


def _logging(world: World) -> list[tuple[Any, str, Any]]:
    root = logging.getLogger("edge_mqtt")
    ours = [logger for name, logger in root.manager.loggerDict.items() if name.startswith("edge_mqtt.")]
    caches: list[tuple[Any, str, Any]] = [
        (logger, "_cache", {}) for logger in ours if isinstance(logger, logging.Logger)
    ]
    level = logging.INFO if world.is_traced else logging.ERROR
    return [(root, "handlers", [_Lines(world)]), (root, "propagate", False), (root, "level", level), *caches]


@contextlib.contextmanager
def simulated_system(world: World) -> Iterator[None]:
    """Let everything that is asked of the system inside be answered by ``world``."""

    def wall() -> float:
        return world.central.wall() if Now.program is None else Now.program.computer.wall()

    def boottime(_clock: int = 0) -> float:
        return world.central.boottime() if Now.program is None else Now.program.computer.boottime()

    class Datetime(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return cls.fromtimestamp(wall(), tz)

    def new_uuid() -> uuid.UUID:
        return uuid.UUID(int=world.chance.getrandbits(128))

    replaced: list[tuple[Any, str, Any]] = [
        (time, "time", wall),
        (time, "monotonic", boottime),
        (time, "clock_gettime", boottime),
        (uuid, "uuid4", new_uuid),
        (secrets, "token_urlsafe", lambda _: f"secret{world.count()}"),
        (secrets, "token_hex", lambda _: f"{world.count():08x}"),
        (worker_app, "Spool", RecordedSpool),
        (ExecutionApiServer, "serve", _serve),
        (shipper, "InotifyWatch", _no_watch),
        (log_file, "datetime", Datetime),
        (bridge_bootstrap, "datetime", Datetime),
        *bridge.replaced(world),
        *scheduler.replaced(world),
    ]
    replaced += _logging(world)
    workers = [module for name, module in sys.modules.items() if name.startswith("edge_mqtt.worker.")]
    for name, stand_in in _OF_THE_KERNEL.items():
        real = next(
            getattr(module, name)
            for module in (boot_clock, killing, oom, process, process_exit)
            if hasattr(module, name)
        )
        replaced += [(module, name, stand_in) for module in workers if getattr(module, name, None) is real]
    with contextlib.ExitStack() as stack:
        for place, name, stand_in in replaced:
            stack.enter_context(mock.patch.object(place, name, stand_in))
        yield
