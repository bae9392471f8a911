"""The four executors: ours, and what people would use instead, each as its own documentation sets it up."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import psutil

from deploy.quickstart.airflow_homes import Config, worker_config, write_home
from deploy.quickstart.ports import HOST
from deploy.quickstart.process import Service
from deploy.quickstart.services import SCHEDULER, SCRIPTS, WORKER_PREFIX, WorkerSpec
from deploy.quickstart.stack import EDGE_EXECUTOR
from tests.benchmarks.executors.processes import cpu_seconds
from tests.benchmarks.executors.systems import CONCURRENCY, DAGS, System, add_part

_AIRFLOW: Final = str(SCRIPTS / "airflow")
#: The link to Airflow's api-server: the tasks' Execution API, and all that edge3's worker speaks to.
_API: Final = "api"


class Ours(System):
    """The executor of this project: an own home for the worker, one connection to the bridge."""

    name = "ours"
    executor = EDGE_EXECUTOR

    def targets(self) -> dict[str, int]:
        return {"bridge": self.ports.bridge}

    def workers(self) -> Sequence[WorkerSpec]:
        return [WorkerSpec(name="edge-1", concurrency=CONCURRENCY, via=self.links["bridge"].port)]

    def start_worker(self) -> None:
        """Nothing is left to start: the stack has the worker."""

    def worker_processes(self) -> list[psutil.Process]:
        return self.stack.services[WORKER_PREFIX + "edge-1"].processes()


class Local(System):
    """Airflow's LocalExecutor: tasks are children of the scheduler."""

    name = "LocalExecutor"
    executor = "LocalExecutor"

    def targets(self) -> dict[str, int]:
        return {_API: self.ports.ui}

    def config(self) -> Config:
        return {"core": {"execution_api_server_url": self.url_through(_API, "/execution/")}}

    def start_worker(self) -> None:
        """Nothing is left to start: the scheduler has the workers."""

    def worker_processes(self) -> list[psutil.Process]:
        return [process for process in self._tree() if process.pid != self._scheduler().pid]

    def worker_cpu_s(self) -> float:
        return cpu_seconds(self._tree(), but=self._scheduler())

    def _tree(self) -> list[psutil.Process]:
        return self.stack.services[SCHEDULER].processes()

    def _scheduler(self) -> psutil.Process:
        return psutil.Process(self.stack.services[SCHEDULER].pid)


class Celery(System):
    """CeleryExecutor with Redis; results and the worker's metadata connection go to PostgreSQL, as by default."""

    name = "Celery + Redis"
    executor = "CeleryExecutor"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        with socket.socket() as probe:
            probe.bind((HOST, 0))
            self._redis_port: int = probe.getsockname()[1]

    def targets(self) -> dict[str, int]:
        return {_API: self.ports.ui, "redis": self._redis_port, "database": self.postgres.port}

    def config(self) -> Config:
        return {"celery": {"broker_url": _redis(self._redis_port), "worker_concurrency": str(CONCURRENCY)}}

    def start_worker(self) -> None:
        port = str(self._redis_port)
        # A title of its own would be written over the environment by which the stack knows its processes.
        title = ["--set-proc-title", "no"]
        argv = ["/usr/bin/redis-server", "--port", port, "--bind", HOST, "--save", "", *title]
        add_part(self.stack, "redis", argv, ready=_says("Ready to accept connections"))
        database = self.postgres.url.replace(f":{self.postgres.port}/", f":{self.links['database'].port}/")
        environment = {
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": self.url_through(_API, "/execution/"),
            "AIRFLOW__CELERY__BROKER_URL": _redis(self.links["redis"].port),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        }
        argv = [_AIRFLOW, "celery", "worker", "--skip-serve-logs"]
        add_part(self.stack, "worker", argv, ready=_says("ready."), environment=environment)


class Edge3(System):
    """EdgeExecutor of the provider edge3: a home of its own for the worker, HTTP polls to the api-server."""

    name = "edge3"
    executor = "airflow.providers.edge3.executors.EdgeExecutor"

    def targets(self) -> dict[str, int]:
        return {_API: self.ports.ui}

    def config(self) -> Config:
        return {"edge": {"api_enabled": "True", "api_url": f"http://{HOST}:{self.ports.ui}/edge_worker/v1/rpcapi"}}

    def start_worker(self) -> None:
        home = self.stack.directory / "edge"
        config = {
            "edge": {
                "api_enabled": "True",
                "api_url": self.url_through(_API, "/edge_worker/v1/rpcapi"),
                "worker_concurrency": str(CONCURRENCY),
            },
            "api_auth": {"jwt_secret": self.secret},
        }
        write_home(home, {**worker_config(home, executor=self.executor), **config}, dags=DAGS)
        argv = [_AIRFLOW, "edge", "worker", "--edge-hostname", "edge1", "--concurrency", str(CONCURRENCY)]
        add_part(self.stack, "worker", argv, ready=lambda _: self._idle(), home=home)

    def _idle(self) -> bool:
        return bool(self.query("SELECT 1 FROM edge_worker WHERE worker_name = 'edge1' AND state = 'idle'"))


#: In the order of the tables.
SYSTEMS: Final[tuple[type[System], ...]] = (Ours, Celery, Local, Edge3)


def _redis(port: int) -> str:
    return f"redis://{HOST}:{port}/0"


def _says(word: str) -> Callable[[Service], bool]:
    return lambda part: word in part.output_since_start()
