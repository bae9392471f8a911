"""Everything that chaos is made in: PostgreSQL, Airflow with two schedulers, a bridge, three workers, bad links.

::

    DIR/pg/        PostgreSQL
    DIR/stack/     the rest (see ``deploy.quickstart.stack``)
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
import sqlalchemy as sa

from deploy.quickstart.ports import Ports
from deploy.quickstart.process import Service
from deploy.quickstart.services import SCRIPTS, STARTUP_S, STOP_S, WorkerSpec
from deploy.quickstart.stack import Stack
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store
from tests.chaos.evidence import Evidence, read_evidence
from tests.chaos.faults import EXECUTORS_LINK, SCHEDULERS, WORKERS
from tests.chaos.postgres import Postgres
from tests.chaos.stream import BRIEF_QUEUE, DAGS
from tests.support.bad_link import BadLink

_DAGS_FOLDER = Path(__file__).parent / "dags"
#: Seconds that a task survives without contact: many times the longest fault.
OFFLINE_GRACE_S = 180
#: The same for tasks of the queue ``brief``.
BRIEF_GRACE_S = 10
PRESENCE_INTERVAL_S = 5
KILL_GRACE_S = 5
#: Seconds between MQTT pings: a black hole is noticed, and a name is free again, after one and a half times this.
KEEP_ALIVE_S = 8
_SCHEDULER_UP = "connected to the bridge"
_LEDGER_DATABASE = "ledger"

_CONFIG = {
    "scheduler": {
        "scheduler_idle_sleep_time": "0.5",
        # A dead scheduler's tasks are adopted while they run. Any shorter, and one that two busy cores have held up
        # would be taken for dead.
        "scheduler_health_check_threshold": "12",
        "orphaned_tasks_check_interval": "5",
    },
    "edge_mqtt": {
        "offline_grace": str(OFFLINE_GRACE_S),
        "queue_offline_grace": f"{BRIEF_QUEUE}={BRIEF_GRACE_S}",
        "presence_interval": str(PRESENCE_INTERVAL_S),
        "kill_grace": str(KILL_GRACE_S),
    },
}
_ENVIRONMENT = {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": str(KEEP_ALIVE_S)}


class Site:
    """Runs while the block does."""

    def __init__(self, directory: Path, *, ledger_in_postgres: bool) -> None:
        """Describe it.

        :param directory: an empty folder with a short path.
        :param ledger_in_postgres: the bridge's ledger is no file of its own, but a database beside Airflow's.
        :raises PostgresMissing: a program or driver is not installed.
        """
        self.directory = directory
        self.postgres = Postgres(directory / "pg")
        self._ledger_in_postgres = ledger_in_postgres
        self._ports = Ports.free()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Start everything."""
        with contextlib.ExitStack() as held:
            # The server's user must be able to pass through.
            self.directory.chmod(0o711)
            held.enter_context(self.postgres)
            if self._ledger_in_postgres:
                self.postgres.create_database(_LEDGER_DATABASE)
            self.links = {
                name: held.enter_context(BadLink(self._ports.bridge)) for name in (*WORKERS, EXECUTORS_LINK)
            }
            self.stack = held.enter_context(self._describe())
            (self.stack.directory / "locks").mkdir()
            self._start_second_scheduler()
            for dag_id in DAGS:
                self.stack.wait_for_dag(dag_id, timeout_s=120)
            self._held = held.pop_all()
        #: The processes that there are when no task runs, by name.
        self.idle_processes = self.processes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything."""
        self._held.close()

    def evidence(self) -> list[Evidence]:
        """Return every line that a task's code has left on the edge, a worker's in their order."""
        files = {worker: self.stack.worker_home(worker) / "evidence.jsonl" for worker in WORKERS}
        return [line for worker, file in files.items() for line in read_evidence(worker, file)]

    def processes(self) -> Counter[str]:
        """Return how many processes there are, by what they are called."""
        return Counter(_names(self.stack.left_over()))

    def adopted(self) -> int:
        """Return how many jobs a scheduler has taken over from another."""
        return sum(self.stack.log_of(name).count("job adopted") for name in SCHEDULERS)

    def ledger_rows(self) -> list[dict[str, Any]]:
        """Return every job in the bridge's ledger, in order of arrival."""
        engine = sa.create_engine(self._ledger_url())
        try:
            with engine.connect() as connection:
                rows = connection.execute(sa.text("SELECT * FROM jobs ORDER BY sequence")).mappings()
                return [dict(row) for row in rows]
        finally:
            engine.dispose()

    # ---------------------------------------------------------------- inside

    def _ledger_url(self) -> str:
        if self._ledger_in_postgres:
            return self.postgres.url_of(_LEDGER_DATABASE)
        return f"sqlite:///{self.directory / 'stack' / 'central' / 'edge-mqtt' / 'ledger.db'}"

    def _describe(self) -> Stack:
        workers = [
            WorkerSpec(name=name, queues=("default", BRIEF_QUEUE), concurrency=6, via=self.links[name].port)
            for name in WORKERS
        ]
        databases = {
            "database": {"sql_alchemy_conn": self.postgres.url},
            "edge_mqtt": _CONFIG["edge_mqtt"] | {"ledger_url": self._ledger_url()},
        }
        return Stack(
            self.directory / "stack",
            dags=_DAGS_FOLDER,
            workers=workers,
            config=_CONFIG | databases,
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
        part = self.stack.services[name] = Service(
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
