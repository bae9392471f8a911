"""Workers side by side, each started without some tricks, and given tasks in turn over real connections."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import psutil

from deploy.quickstart.ports import HOST
from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_credentials
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import server_context
from tests.benchmarks.task_centre import NAME, PATIENCE_S, TOPICS, Centre
from tests.benchmarks.weight.proc import family, proportional_mb
from tests.support.fixed_context import FixedContext

WITHOUT: Final = Path(__file__).with_name("without.py")
DAGS: Final = Path(__file__).parents[1] / "task_dags"
BRIDGE, WORKER = Identity(Role.BRIDGE, "bridge"), Identity(Role.WORKER, NAME)
SLOTS: Final = 16
#: Tasks that run before anything is measured: the first ones of a launcher meet pages that nobody has touched yet.
WARM_UP: Final = 2
#: Tasks that run in a row on the same worker.
BLOCK: Final = 5
#: Seconds in which processes settle down, and in which ended ones are reaped and counted.
SETTLE_S: Final = 0.5
POLL_S: Final = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """What was measured of one worker. CPU is that of all processes of the worker; memory is by shares (PSS)."""

    #: CPU of a task when they run one after another.
    task_cpu_ms: float
    #: CPU from the command to the welcome.
    start_cpu_ms: float
    #: Worker and launcher: before the first task, and after all that ran alone.
    fresh_mb: float
    idle_mb: float
    #: All processes while every slot runs user code; and what each slot adds to the idle worker.
    busy_mb: float
    slot_mb: float


def certificates(folder: Path) -> Store:
    """Make the certificates of the bridge and of the worker."""
    store = Store(folder)
    now = datetime.now(UTC)
    store.create(hosts=[HOST], force=False, now=now)
    store.issue(WORKER, force=False, now=now)
    return store


@asynccontextmanager
async def broker(store: Store) -> AsyncIterator[EmbeddedBroker]:
    """Run a broker, which knows of no worker yet."""
    context = server_context(load_credentials(store.folder(BRIDGE)))
    made = EmbeddedBroker(ssl_contexts=FixedContext(context), topics=TOPICS, host=HOST, port=0)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


@contextmanager
def worker(folder: Path, url: str, certs: Path, off: Sequence[str]) -> Iterator[psutil.Process]:
    """Run a worker without these tricks."""
    options = {"bridge": url, "certs": certs, "state-dir": folder / "state", "concurrency": SLOTS}
    command = [sys.executable, "-P", str(WITHOUT), ",".join(off)]
    command += [f"--{name}={value}" for name, value in options.items()]
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "AIRFLOW_HOME": str(folder / "home"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "TASK_COST_MARKS": str(folder / "marks"),
        "TASK_COST_HOLD": str(folder / "hold"),
        "TASK_COST_IMPORTS": "",
    }
    (folder / "hold").mkdir()
    with (folder / "worker.log").open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield psutil.Process(process.pid)
    except BaseException:
        sys.stderr.write((folder / "worker.log").read_text(errors="replace"))
        raise
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def cpu_s(process: psutil.Process) -> float:
    """Return the CPU of a worker, of its launcher, and of all that these have started and that have ended."""
    return sum(sum(each.cpu_times()[:4]) for each in (process, *process.children()))


class Side:
    """One worker of a pair, with a centre of its own."""

    def __init__(self, process: psutil.Process, centre: Centre, hold: Path) -> None:
        self._process = process
        self._centre = centre
        self._hold = hold

    @property
    def cpu_s(self) -> float:
        """What all its processes have used so far."""
        return cpu_s(self._process)

    @property
    def memory_mb(self) -> float:
        """What all its processes have now."""
        return proportional_mb(family(self._process.pid))

    async def started(self) -> None:
        """Wait until it is welcome and has come to rest."""
        await self._centre.until(lambda: self._centre.welcomed)
        await asyncio.sleep(SETTLE_S)

    async def run(self, tasks: int) -> None:
        """Run tasks one after another."""
        for _ in range(tasks):
            await self._centre.succeed([self._centre.assign("nothing")])

    async def busy_mb(self) -> float:
        """Return the memory while every slot runs user code."""
        jobs = [self._centre.assign("hold") for _ in range(SLOTS)]
        async with asyncio.timeout(PATIENCE_S):
            while len(os.listdir(self._hold)) < SLOTS:  # noqa: ASYNC110, PTH208 -- they are other processes
                await asyncio.sleep(POLL_S)
        await asyncio.sleep(SETTLE_S)
        memory = self.memory_mb
        (self._hold / "over").touch()
        await self._centre.succeed(jobs)
        return memory


@asynccontextmanager
async def side(store: Store, off: Sequence[str]) -> AsyncIterator[Side]:
    """Run a worker without these tricks, and its centre."""
    with TemporaryDirectory(prefix="edge-tricks-") as made:
        folder = Path(made)
        async with broker(store) as its_broker:
            centre = Centre(its_broker.router)
            url = f"wss://{HOST}:{its_broker.port}/mqtt"
            with worker(folder, url, store.folder(WORKER), off) as process:
                yield Side(process, centre, folder / "hold")


async def measure_pair(store: Store, offs: Sequence[Sequence[str]], tasks: int) -> list[Figures]:
    """Measure workers side by side, each without some tricks.

    :param tasks: how many each of them runs one after another.
    """
    async with AsyncExitStack() as stack:
        sides, starts, fresh = [], [], []
        for off in offs:
            each = await stack.enter_async_context(side(store, off))
            await each.started()
            sides.append(each)
            starts.append(each.cpu_s)
        fresh = [each.memory_mb for each in sides]
        for each in sides:
            await each.run(WARM_UP)
        await asyncio.sleep(SETTLE_S)
        before = [each.cpu_s for each in sides]
        for block in range(tasks // BLOCK):
            for each in sides if block % 2 else reversed(sides):
                await each.run(BLOCK)
        await asyncio.sleep(SETTLE_S)
        after = [each.cpu_s for each in sides]
        idle = [each.memory_mb for each in sides]
        busy = [await each.busy_mb() for each in sides]
    return [
        Figures(
            task_cpu_ms=(after[i] - before[i]) / (tasks // BLOCK * BLOCK) * 1000,
            start_cpu_ms=starts[i] * 1000,
            fresh_mb=fresh[i],
            idle_mb=idle[i],
            busy_mb=busy[i],
            slot_mb=(busy[i] - idle[i]) / SLOTS,
        )
        for i in range(len(sides))
    ]
