"""Everything that chaos is made in: PostgreSQL, Airflow with two schedulers, a bridge, three workers, bad links.

::

    DIR/pg/        PostgreSQL
    DIR/stack/     the rest (see ``deploy.quickstart.stack``)
"""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from deploy.quickstart.parts import SCRIPTS, STARTUP_S, STOP_S, WORKER_PREFIX, WorkerSpec
from deploy.quickstart.ports import Ports
from deploy.quickstart.process import Part
from deploy.quickstart.stack import Stack
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store
from tests.chaos.faults import EXECUTORS_LINK, SCHEDULERS, WORKERS, Fault, Kind
from tests.chaos.postgres import Postgres
from tests.chaos.stream import DAG
from tests.e2e.link import BadLink

DAGS = Path(__file__).parent / "dags"
#: Seconds that every byte takes over a delayed link, each way.
DELAY_S = 1.5
#: Seconds that a task survives without contact: many times the longest fault.
OFFLINE_GRACE_S = 180
#: Seconds between MQTT pings: a black hole is noticed, and a name is free again, after one and a half times this.
KEEP_ALIVE_S = 8
_SCHEDULER_UP = "connected to the bridge"

_CONFIG = {
    "scheduler": {
        "scheduler_idle_sleep_time": "0.5",
        # A dead scheduler's tasks are adopted while they run. Any shorter, and one that two busy cores have held up
        # would be taken for dead.
        "scheduler_health_check_threshold": "12",
        "orphaned_tasks_check_interval": "5",
    },
    "edge_mqtt": {"offline_grace": str(OFFLINE_GRACE_S), "presence_interval": "5"},
}
_ENVIRONMENT = {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": str(KEEP_ALIVE_S)}


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class Try:
    """One try of one task instance, as its own line on the edge names it."""

    run: str
    task: str
    map: int
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One line that a task's code left on the edge."""

    what: Try
    worker: str
    pid: int


class Site:
    """Runs while the block does."""

    def __init__(self, directory: Path, say: Callable[[str], None]) -> None:
        """Describe it.

        :param directory: an empty folder with a short path.
        :raises PostgresMissing: a program or driver is not installed.
        """
        self.directory = directory
        #: Tries whose process was killed: only these may fail.
        self.killed: set[Try] = set()
        self._say = say
        self._postgres = Postgres(directory / "pg")
        self._ports = Ports.free()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start everything."""
        with contextlib.ExitStack() as held:
            # The server's user must be able to pass through.
            self.directory.chmod(0o711)
            held.enter_context(self._postgres)
            self.links = {
                name: held.enter_context(BadLink(self._ports.bridge)) for name in (*WORKERS, EXECUTORS_LINK)
            }
            self.stack = held.enter_context(self._describe())
            self._start_second_scheduler()
            self.stack.wait_for_dag(DAG, timeout_s=120)
            self._held = held.pop_all()
        #: The processes that there are when no task runs, by name.
        self.idle_processes = self.processes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self._held.close()

    # ---------------------------------------------------------------- faults

    def begin(self, fault: Fault) -> None:
        """Let a fault happen."""
        match fault.kind:
            case Kind.KILL:
                self._kill(self._part_name(fault.target))
            case Kind.KILL_TASK:
                self._kill_task()
            case Kind.CUT:
                self.links[fault.target].cut()
            case Kind.BLACKHOLE:
                self.links[fault.target].blackhole()
            case Kind.DELAY:
                self.links[fault.target].delay_s = DELAY_S

    def end(self, fault: Fault) -> None:
        """Undo a fault that lasts."""
        match fault.kind:
            case Kind.KILL:
                self.stack.restart(self._part_name(fault.target), wait=False)
            case Kind.CUT | Kind.BLACKHOLE:
                self.links[fault.target].restore()
            case Kind.DELAY:
                self.links[fault.target].delay_s = 0.0

    def _kill(self, name: str) -> None:
        part = self.stack.parts[name]
        if not part.alive:
            # It ended by itself: that is a finding, and check_alive says which part it was.
            self.check_alive()
        self.stack.kill(name, signal.SIGKILL)
        part.wait(10.0)

    def _kill_task(self) -> None:
        """Kill the task that began last, if one runs; not one that is already in its second try."""
        ours = {process.pid: process for process in self.stack.left_over()}
        for line in reversed(self.evidence()):
            if line.pid in ours and line.what.number == 1:
                # Noted before: that it failed must never be seen without the reason.
                self.killed.add(line.what)
                with contextlib.suppress(psutil.NoSuchProcess):
                    ours[line.pid].kill()
                self._say(f"         that was {line.what} on {line.worker}")
                return
        self._say("         no task ran")

    def _part_name(self, target: str) -> str:
        return WORKER_PREFIX + target if target in WORKERS else target

    # ---------------------------------------------------------------- what is there

    def check_alive(self) -> None:
        """Raise when a part has died or does not come up.

        :raises PartFailed: it has.
        """
        self.stack.check_alive()

    def evidence(self) -> list[Evidence]:
        """Return every line that a task's code has left on the edge, a worker's in their order."""
        found = []
        for worker in WORKERS:
            file = self.stack.worker_home(worker) / "evidence.jsonl"
            for text in file.read_text().splitlines() if file.exists() else ():
                line = json.loads(text)
                what = Try(run=line["run"], task=line["task"], map=line["map"], number=line["try"])
                found.append(Evidence(what=what, worker=worker, pid=line["pid"]))
        return found

    def processes(self) -> Counter[str]:
        """Return how many processes there are, by what they are called."""
        return Counter(_names(self.stack.left_over()))

    def adopted(self) -> int:
        """Return how many jobs a scheduler has taken over from another."""
        return sum(self.stack.log_of(name).count("job adopted") for name in SCHEDULERS)

    @property
    def ledger(self) -> Path:
        """The bridge's ledger."""
        return self.stack.central_home / "edge-mqtt" / "ledger.db"

    # ---------------------------------------------------------------- inside

    def _describe(self) -> Stack:
        workers = [WorkerSpec(name=name, concurrency=4, via=self.links[name].port) for name in WORKERS]
        return Stack(
            self.directory / "stack",
            dags=DAGS,
            workers=workers,
            config={**_CONFIG, "database": {"sql_alchemy_conn": self._postgres.url}},
            ports=self._ports,
            executor_via=self.links[EXECUTORS_LINK].port,
            environment=_ENVIRONMENT,
        )

    def _start_second_scheduler(self) -> None:
        """Start a scheduler beside the stack's own, with a certificate of its own."""
        name = SCHEDULERS[1]
        home = self.stack.central_home
        certs = home / "certs" / name
        store = Store(self.stack.directory / "certs")
        identity = Identity(Role.EXECUTOR, name)
        store.issue(identity, force=False, now=datetime.now(UTC))
        shutil.copytree(store.folder(identity), certs)
        part = self.stack.parts[name] = Part(
            name=name,
            argv=[str(SCRIPTS / "airflow"), "scheduler", "--skip-serve-logs"],
            environment=self.stack.environment(home)
            | _ENVIRONMENT
            | {"AIRFLOW__EDGE_MQTT__EXECUTOR_CERTS": str(certs)},
            directory=home,
            output=self.stack.directory / "output" / f"{name}.log",
            ready=lambda part: _SCHEDULER_UP in part.output_since_start(),
            startup_s=STARTUP_S,
            stop_s=STOP_S,
        )
        part.start()
        self.stack.wait_until(part.check, f"{name} to be up", timeout_s=STARTUP_S)


def _names(processes: list[psutil.Process]) -> Iterator[str]:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            yield " ".join(process.cmdline()).strip() or process.name()
