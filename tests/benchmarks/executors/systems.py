"""A whole Airflow with one executor: a PostgreSQL server, Airflow's services and one worker, frozen until its turn.

::

    DIR/pg/       PostgreSQL
    DIR/stack/    the rest (see ``deploy.quickstart.stack``)
"""

from __future__ import annotations

import contextlib
import secrets
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Final, Self

import psutil
import sqlalchemy as sa

from deploy.quickstart.airflow_homes import Config, merged
from deploy.quickstart.errors import RestFailed, ServiceFailed
from deploy.quickstart.ports import HOST, Ports
from deploy.quickstart.process import Service
from deploy.quickstart.services import STARTUP_S, STOP_S, WorkerSpec
from deploy.quickstart.stack import Stack
from tests.benchmarks.executors.link import CountingLink
from tests.benchmarks.executors.processes import cpu_seconds, freeze, pss_bytes, thaw
from tests.benchmarks.executors.traffic import Traffic
from tests.chaos.postgres import Postgres

DAGS: Final = Path(__file__).parents[1] / "dags"
#: Tasks at a time on a worker, and in all of Airflow.
CONCURRENCY: Final = 16
PARALLELISM: Final = 32
#: Seconds in which a system that was frozen must answer again.
_THAW_S: Final = 60.0
#: The same for every executor.
_CONFIG: Final[Config] = {
    "core": {"parallelism": str(PARALLELISM)},
    # A system that stands still must not be taken for dead by itself when it goes on.
    "scheduler": {"scheduler_health_check_threshold": "7200", "orphaned_tasks_check_interval": "7200"},
    # The Dags do not change: no parsing while something is measured.
    "dag_processor": {"refresh_interval": "7200", "min_file_process_interval": "7200"},
}


class System(ABC):
    """Runs while the block does; a subclass says what is special with its executor."""

    #: How the tables call it.
    name: ClassVar[str]
    executor: ClassVar[str]

    def __init__(self, directory: Path) -> None:
        """Describe it.

        :param directory: an empty folder with a short path; the PostgreSQL server's user must be able to reach it.
        """
        self.directory = directory
        self.postgres = Postgres(directory / "pg", fsync=True)
        self.ports = Ports.free()
        self.secret = secrets.token_urlsafe(48)
        self.links: dict[str, CountingLink] = {}
        self.stack: Stack
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        """Use it; :meth:`start` starts it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def stop(self) -> None:
        """Stop everything; safe to repeat."""
        self._held.close()

    def start(self) -> None:
        """Start everything and return when it is up."""
        self.directory.mkdir(mode=0o711)
        with contextlib.ExitStack() as held:
            held.enter_context(self.postgres)
            # Here and below: nothing is wanted of it afterwards, and what stands still cannot end in order.
            held.callback(self.postgres.kill)
            self.links = {n: held.enter_context(CountingLink(port)) for n, port in self.targets().items()}
            shared = {
                "database": {"sql_alchemy_conn": self.postgres.url},
                "api_auth": {"jwt_secret": self.secret},
            }
            self.stack = Stack(
                self.directory / "stack",
                dags=DAGS,
                executor=self.executor,
                workers=self.workers(),
                config=merged(_CONFIG, shared, self.config()),
                ports=self.ports,
            )
            held.callback(self.stack.stop, at_once=True)
            self.stack.start()
            self._engine = sa.create_engine(self.postgres.url)
            held.callback(self._engine.dispose)
            self.start_worker()
            self._held = held.pop_all()

    # ---------------------------------------------------------------- what is special

    @abstractmethod
    def targets(self) -> dict[str, int]:
        """Return what the worker speaks to, each through a link of its own: name -> port."""

    def config(self) -> Config:
        """Return settings of the centre that this executor needs."""
        return {}

    def workers(self) -> Sequence[WorkerSpec]:
        """Return the workers that the stack starts by itself."""
        return ()

    @abstractmethod
    def start_worker(self) -> None:
        """Start what the stack has not started; return when it is up."""

    def worker_processes(self) -> list[psutil.Process]:
        """Return the worker's processes that there are now."""
        return self.stack.services["worker"].processes()

    def worker_cpu_s(self) -> float:
        """Return the seconds of CPU that the worker has used since its start."""
        return cpu_seconds(self.worker_processes())

    # ---------------------------------------------------------------- for the scenarios

    def worker_pss(self) -> int:
        """Return the bytes of memory that the worker holds."""
        return pss_bytes(self.worker_processes())

    def traffic(self) -> Traffic:
        """Return what has crossed the worker's links."""
        return sum((link.traffic for link in self.links.values()), Traffic())

    def query(self, statement: str, **values: Any) -> list[sa.RowMapping]:
        """Return rows of Airflow's database."""
        with self._engine.connect() as connection:
            return list(connection.execute(sa.text(statement), values).mappings())

    def freeze(self) -> None:
        """Make everything stand still."""
        freeze(self._processes)

    def thaw(self) -> None:
        """Let everything go on, and return when Airflow answers.

        :raises WaitedTooLong: it does not.
        """
        thaw(self._processes())
        self.stack.wait_until(self._answers, f"{self.name} to answer again", timeout_s=_THAW_S)

    def url_through(self, link: str, path: str) -> str:
        """Return the address of something of Airflow's api-server, as the worker reaches it."""
        return f"http://{HOST}:{self.links[link].port}{path}"

    def _answers(self) -> bool:
        with contextlib.suppress(RestFailed):
            return self.stack.rest("GET", "/monitor/health") is not None
        return False

    def _processes(self) -> list[psutil.Process]:
        server = psutil.Process(self.postgres.pid)
        return [*self.stack.left_over(), server, *server.children(recursive=True)]


def add_part(
    stack: Stack,
    name: str,
    argv: Sequence[str],
    *,
    ready: Callable[[Service], bool],
    home: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Start one more process of a stack and return when it is up.

    :param home: its AIRFLOW_HOME; the centre's when not given.
    :raises ServiceFailed: it died, did not come up, or does not show that it is the stack's: it could not be frozen.
    """
    home = home or stack.central_home
    part = stack.services[name] = Service(
        name=name,
        argv=argv,
        environment=stack.environment(home) | dict(environment or {}),
        directory=home,
        output=stack.directory / "output" / f"{name}.log",
        ready=ready,
        startup_s=STARTUP_S,
        stop_s=STOP_S,
    )
    part.start()
    stack.wait_until(part.check, f"{name} to be up", timeout_s=STARTUP_S)
    if part.pid not in {process.pid for process in stack.left_over()}:
        part.send(signal.SIGKILL)
        raise ServiceFailed(name, "hides the environment by which the stack knows its processes", part.last_lines())
