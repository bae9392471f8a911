"""A whole system on this machine: Airflow, the bridge and workers, each with a home of its own.

::

    DIR/certs/      the authority, as ``edge-certs`` makes it
    DIR/central/    AIRFLOW_HOME of the data centre: database, Dags, logs, certificates of the bridge and the executor
    DIR/<worker>/   AIRFLOW_HOME of an edge machine: its copy of the Dags, its logs, its certificate, nothing else
    DIR/operator/   an operator's certificate
    DIR/output/     what each service writes to standard output and error
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import psutil
from cryptography.fernet import Fernet

from deploy.quickstart.airflow_homes import Config, central_config, merged, worker_config, write_home, write_private
from deploy.quickstart.airflow_rest import AirflowRest, run_path
from deploy.quickstart.certificates import Certificates
from deploy.quickstart.directory_lock import lock_directory
from deploy.quickstart.errors import RestFailed, ServiceFailed, WaitedTooLong
from deploy.quickstart.ports import HOST, Ports
from deploy.quickstart.process import POLL_S, Service, marked, stop_services, sweep
from deploy.quickstart.services import (
    API_SERVER,
    BRIDGE,
    DAG_PROCESSOR,
    SCHEDULER,
    TRIGGERER,
    WORKER_PREFIX,
    ServiceFactory,
    WorkerSpec,
    bare_environment,
)

EDGE_EXECUTOR = "edge_mqtt.executor.EdgeMqttExecutor"
#: Seconds that what is left over after a stop has between SIGTERM and SIGKILL.
_SWEEP_GRACE_S = 5.0
#: States of a Dag run in which nothing more happens.
_RUN_ENDED = frozenset({"success", "failed"})


class Stack:
    """Starts and stops everything, and answers what a test or a demonstration asks."""

    def __init__(
        self,
        directory: Path,
        *,
        dags: Path,
        executor: str = EDGE_EXECUTOR,
        workers: Sequence[WorkerSpec] = (),
        config: Config | None = None,
        ports: Ports | None = None,
        executor_via: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Describe it; :meth:`start` starts it.

        :param directory: cleared at the start when it is an earlier stack's.
        :param dags: the folder of Dags that Airflow and every worker get a copy of.
        :param executor: Airflow's ``[core] executor``; without ours there is no bridge and no worker.
        :param config: further settings of Airflow and the bridge.
        :param ports: free ones when not given.
        :param executor_via: the port under which the executor reaches the bridge; None: the bridge's own.
        :param environment: further environment variables of every service.
        """
        self.directory = directory.resolve()
        self.ports = ports or Ports.free()
        self.has_edge = EDGE_EXECUTOR in executor
        self.workers = list(workers) if self.has_edge else []
        self.username = "admin"
        self.password = secrets.token_urlsafe(9)
        self.services: dict[str, Service] = {}
        self._marker = secrets.token_hex(8)
        self._dags = dags
        self._executor = executor
        self._config = config or {}
        self._executor_via = executor_via
        self._certificates = Certificates(self.directory / "certs")
        self._claim: IO[str] | None = None
        self._rest = AirflowRest(self.url, username=self.username, password=self.password)
        self._make = ServiceFactory(
            directory=self.directory,
            marker=self._marker,
            ports=self.ports,
            rest=self._rest,
            environment=dict(environment or {}),
        )

    # ---------------------------------------------------------------- where things are

    @property
    def url(self) -> str:
        """The address of Airflow's UI and API."""
        return f"http://{HOST}:{self.ports.ui}"

    @property
    def bridge_url(self) -> str:
        """The bridge's address."""
        return f"wss://{HOST}:{self.ports.bridge}/mqtt"

    @property
    def central_home(self) -> Path:
        """AIRFLOW_HOME of the data centre."""
        return self.directory / "central"

    @property
    def operator_certs(self) -> Path:
        """The operator's certificates."""
        return self.directory / "operator"

    def worker_home(self, worker: str) -> Path:
        """Return AIRFLOW_HOME of a worker."""
        return self.directory / worker

    def worker_port(self, worker: str) -> int:
        """Return the port under which a worker reaches the bridge."""
        return next(spec.via for spec in self.workers if spec.name == worker) or self.ports.bridge

    def environment(self, home: Path) -> dict[str, str]:
        """Return an environment for a command that belongs to the stack and ends with it."""
        return bare_environment(home, self._marker)

    # ---------------------------------------------------------------- up and down

    def __enter__(self) -> Self:
        """Start it."""
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def start(self, progress: Callable[[Sequence[Service]], None] = lambda _: None) -> None:
        """Start everything and return when it is up.

        :param progress: called with the services again and again while they come up.
        :raises DirectoryInUse: another stack runs there, or the folder is not a stack's.
        :raises ServiceFailed: a service died or did not come up in time.
        """
        self._claim = lock_directory(self.directory, self._marker)
        self._write_homes()
        migration = self._make.migration()
        self.services = {service.name: service for service in self._describe_services()}
        shown = [migration, *self.services.values()]
        # These need no database to come up; Airflow's own refuse to start without.
        early = [service for service in self.services.values() if _is_edge(service)]
        for service in (migration, *early):
            service.start()
        self._await_end(migration, lambda: progress(shown))
        for service in self.services.values():
            if service not in early:
                service.start()
        self._await_ready(list(self.services.values()), lambda: progress(shown))

    def stop(self, *, at_once: bool = False) -> None:
        """Stop everything that was started, and what that has started; safe to repeat.

        :param at_once: kill instead of asking.
        """
        services = self.services
        if not at_once:
            stop_services(services[name] for name in (SCHEDULER, DAG_PROCESSOR, TRIGGERER) if name in services)
            stop_services(service for name, service in services.items() if name.startswith(WORKER_PREFIX))
            stop_services(services[name] for name in (BRIDGE, API_SERVER) if name in services)
        sweep(self._marker, grace_s=0.0 if at_once else _SWEEP_GRACE_S)
        for service in services.values():
            service.wait(1.0)  # so that no zombie stays
        self._rest.close()
        if self._claim is not None:
            self._claim.close()
            self._claim = None

    def left_over(self) -> list[psutil.Process]:
        """Return the stack's processes that run now."""
        return marked(self._marker)

    def add_worker(self, spec: WorkerSpec, *, wait: bool = True) -> Service:
        """Start one more worker.

        :param wait: return when it is up, not at once.
        """
        self.workers.append(spec)
        self._write_worker_home(spec)
        service = self.services[WORKER_PREFIX + spec.name] = self._make.worker(spec)
        service.start()
        if wait:
            self._await_ready([service])
        return service

    def kill(self, name: str, signal_number: int) -> None:
        """Send a service's main process a signal; its children are not touched."""
        self.services[name].send(signal_number)

    def restart(self, name: str, *, wait: bool = True) -> None:
        """Start a service again, after it has ended.

        :param wait: return when it is up, not at once.
        """
        service = self.services[name]
        stop_services([service])
        service.start()
        if wait:
            self._await_ready([service])

    # ---------------------------------------------------------------- questions about services

    def log_of(self, name: str) -> str:
        """Return everything a service has written."""
        return self.services[name].output()

    def env_of(self, name: str) -> dict[str, str]:
        """Return the environment that a service's main process was started with."""
        return dict(psutil.Process(self.services[name].pid).environ())

    def check_alive(self) -> None:
        """Raise when a service has died.

        :raises ServiceFailed: it has.
        """
        for service in self.services.values():
            service.check()
            if not service.alive:
                raise ServiceFailed(service.name, f"ended with exit code {service.exit_code}", service.last_lines())

    # ---------------------------------------------------------------- Airflow

    def rest(self, method: str, path: str, json: object = None, *, params: dict[str, Any] | None = None) -> Any:
        """Call Airflow's REST API below ``/api/v2``.

        :raises RestFailed: it answered with an error.
        """
        return self._rest.call(method, path, json, params=params)

    def wait_for_dag(self, dag_id: str, *, timeout_s: float = 60.0) -> None:
        """Return when the dag-processor has found a Dag.

        :raises WaitedTooLong: it has not.
        """
        self.wait_until(lambda: self._has_dag(dag_id), f"Dag {dag_id} to be parsed", timeout_s=timeout_s)

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None) -> str:
        """Start a run of a Dag and return its run id."""
        body = {"logical_date": None, "conf": conf or {}}
        return str(self.rest("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the state of a run."""
        return str(self.rest("GET", run_path(dag_id, run_id))["state"])

    def wait_run(self, dag_id: str, run_id: str, *, timeout_s: float = 300.0) -> str:
        """Return the final state of a run.

        :raises WaitedTooLong: it goes on.
        """
        state = ""

        def ended() -> bool:
            nonlocal state
            state = self.run_state(dag_id, run_id)
            return state in _RUN_ENDED

        self.wait_until(ended, f"run {run_id} of {dag_id} to end", timeout_s=timeout_s, poll_s=0.3)
        return state

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return every task instance of a run, as the REST API describes it."""
        return self._rest.pages(f"{run_path(dag_id, run_id)}/taskInstances", "task_instances")

    def wait_until(
        self, condition: Callable[[], bool], what: str, *, timeout_s: float = 60.0, poll_s: float = 0.1
    ) -> None:
        """Return when ``condition`` holds.

        :param what: the end of the sentence "waited … for".
        :raises WaitedTooLong: it does not.
        """
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise WaitedTooLong(f"waited {timeout_s:g} s for {what}")
            time.sleep(poll_s)

    # ---------------------------------------------------------------- inside

    def _has_dag(self, dag_id: str) -> bool:
        try:
            self.rest("GET", f"/dags/{dag_id}")
        except RestFailed as error:
            if error.status == 404:
                return False
            raise
        return True

    def _describe_services(self) -> list[Service]:
        names = (API_SERVER, SCHEDULER, DAG_PROCESSOR, TRIGGERER)
        edge = [self._make.bridge(), *map(self._make.worker, self.workers)] if self.has_edge else []
        return [*edge, *map(self._make.airflow, names)]

    def _write_homes(self) -> None:
        url = f"wss://{HOST}:{self._executor_via or self.ports.bridge}/mqtt"
        config = central_config(
            self.central_home, ports=self.ports, executor=self._executor, bridge_url=url, secrets=_new_secrets()
        )
        write_home(self.central_home, merged(config, self._config), dags=self._dags)
        write_private(self.central_home / "passwords.json", f'{{"{self.username}": "{self.password}"}}\n')
        if not self.has_edge:
            return
        certs = self.central_home / "certs"
        self._certificates.found(bridge=certs / "bridge", executor=certs / "executor", operator=self.operator_certs)
        for spec in self.workers:
            self._write_worker_home(spec)

    def _write_worker_home(self, spec: WorkerSpec) -> None:
        home = self.worker_home(spec.name)
        write_home(home, worker_config(home, executor=self._executor), dags=self._dags)
        self._certificates.add_worker(spec.name, home / "certs")

    def _await_end(self, service: Service, progress: Callable[[], None]) -> None:
        while service.alive:
            progress()
            service.wait(POLL_S)
        if service.exit_code != 0:
            raise ServiceFailed(service.name, f"ended with exit code {service.exit_code}", service.last_lines())
        service.took_s = time.time() - service.started_at

    def _await_ready(self, services: Sequence[Service], progress: Callable[[], None] = lambda: None) -> None:
        # Every service is asked each time, so that a dead one is noticed while another is slow.
        while False in {service.check() for service in services}:
            progress()
            time.sleep(POLL_S)
        progress()


def _is_edge(service: Service) -> bool:
    return service.name == BRIDGE or service.name.startswith(WORKER_PREFIX)


def _new_secrets() -> Config:
    return {
        "core": {"fernet_key": Fernet.generate_key().decode()},
        "api": {"secret_key": secrets.token_urlsafe(32)},
        "api_auth": {"jwt_secret": secrets.token_urlsafe(64)},
    }


__all__ = ["EDGE_EXECUTOR", "Stack", "WorkerSpec"]
