"""How each service of the stack is started, and how it shows that it is up."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import httpx

from deploy.quickstart.airflow_rest import AirflowRest
from deploy.quickstart.ports import HOST, Ports
from deploy.quickstart.process import MARKER, Service

API_SERVER = "api-server"
SCHEDULER = "scheduler"
DAG_PROCESSOR = "dag-processor"
TRIGGERER = "triggerer"
BRIDGE = "bridge"
#: What a service that is a worker is called: this and the worker's name.
WORKER_PREFIX = "worker-"

#: Seconds that a service may take to come up while two cores start everything at once.
STARTUP_S = 120.0
#: Seconds that a service has for a clean end.
STOP_S = 10.0
#: Airflow 3.3's triggerer waits 10 s for a child that has no more to do; what it holds is in the database.
TRIGGERER_STOP_S = 1.0
#: The scripts of this Python's environment.
SCRIPTS = Path(sys.executable).parent

#: What edge-worker logs when it is connected.
_WORKER_UP = "connected to wss:"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSpec:
    """A worker of the stack."""

    name: str
    queues: tuple[str, ...] = ("default",)
    concurrency: int = 8
    #: The port under which this worker reaches the bridge; None: the bridge's own.
    via: int | None = None
    #: Further environment variables of this worker.
    environment: Mapping[str, str] = field(default_factory=dict)


def bare_environment(home: Path, marker: str) -> dict[str, str]:
    """Return the whole environment of a service: nothing comes from ours."""
    return {
        "PATH": os.pathsep.join((str(SCRIPTS), "/usr/local/bin", "/usr/bin", "/bin")),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "AIRFLOW_HOME": str(home),
        MARKER: marker,
        # setproctitle would write over the environment by which the stack knows its processes.
        "SPT_NOENV": "1",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceFactory:
    """Makes the services of one stack."""

    directory: Path
    marker: str
    ports: Ports
    rest: AirflowRest
    #: Further environment variables of every service.
    environment: dict[str, str]

    def airflow(self, name: str) -> Service:
        """Return one of Airflow's own services."""
        options = {SCHEDULER: ["--skip-serve-logs"], TRIGGERER: ["--skip-serve-logs"]}
        ready = self._api_ready if name == API_SERVER else self._beats(name.replace("-", "_"))
        return self._service(name, [str(SCRIPTS / "airflow"), name, *options.get(name, [])], "central", ready)

    def migration(self) -> Service:
        """Return the process that makes the database; it is ready when it has ended well."""
        return self._service("migration", [str(SCRIPTS / "airflow"), "db", "migrate"], "central", lambda _: False)

    def bridge(self) -> Service:
        """Return the bridge."""
        return self._service(BRIDGE, [str(SCRIPTS / "edge-bridge")], "central", self._bridge_ready)

    def worker(self, spec: WorkerSpec) -> Service:
        """Return a worker."""
        home = self.directory / spec.name
        port = spec.via or self.ports.bridge
        argv = [
            str(SCRIPTS / "edge-worker"),
            *("--bridge", f"wss://{HOST}:{port}/mqtt"),
            *("--certs", str(home / "certs")),
            *("--queues", ",".join(spec.queues)),
            *("--concurrency", str(spec.concurrency)),
            *("--state-dir", str(home / "state")),
        ]
        return self._service(WORKER_PREFIX + spec.name, argv, spec.name, _says(_WORKER_UP), spec.environment)

    def _service(
        self,
        name: str,
        argv: list[str],
        home: str,
        ready: Callable[[Service], bool],
        environment: Mapping[str, str] | None = None,
    ) -> Service:
        return Service(
            name=name,
            argv=argv,
            environment={
                **bare_environment(self.directory / home, self.marker),
                **self.environment,
                **(environment or {}),
            },
            directory=self.directory / home,
            output=self.directory / "output" / f"{name}.log",
            ready=ready,
            startup_s=STARTUP_S,
            stop_s=TRIGGERER_STOP_S if name == TRIGGERER else STOP_S,
        )

    def _api_ready(self, _: Service) -> bool:
        return bool(self.rest.health()) and self.rest.serves_tasks()

    def _bridge_ready(self, _: Service) -> bool:
        try:
            return httpx.get(f"http://{HOST}:{self.ports.health}/healthz", timeout=2.0, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def _beats(self, name: str) -> Callable[[Service], bool]:
        """Return a check for a heartbeat in Airflow's database that is younger than the service."""

        def ready(service: Service) -> bool:
            beat = self.rest.health().get(name, {}).get(f"latest_{name}_heartbeat")
            return beat is not None and datetime.fromisoformat(beat).timestamp() >= service.started_at

        return ready


def _says(word: str) -> Callable[[Service], bool]:
    def ready(service: Service) -> bool:
        return word in service.output_since_start()

    return ready
