"""A real Dag runs green on a worker that has nothing but one connection to the bridge."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from deploy.quickstart.demo import prepare_airflow
from deploy.quickstart.stack import Stack
from tests.support.run_checks import assert_logs_equal, edge_logs, process_tree

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

DAG = "edge_demo"
WORKER = "worker-edge-1"


class SocketWatch:
    """Samples the sockets of a worker, its launcher, supervisors and tasks."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.samples = 0
        self.processes_seen = 0
        self.unexpected: set[str] = set()
        self.connections_at_once = 0
        self._over = threading.Event()

    def look(self, port: int) -> None:
        established = 0
        tree = process_tree(self._pid)
        self.processes_seen = max(self.processes_seen, len(tree))
        for process in tree:
            try:
                connections = process.net_connections("inet")
            except psutil.NoSuchProcess:
                continue
            for connection in connections:
                if process.pid == self._pid and connection.raddr and connection.raddr.port == port:
                    established += connection.status == psutil.CONN_ESTABLISHED
                else:
                    self.unexpected.add(f"{process.name()}: {connection}")
        self.connections_at_once = max(self.connections_at_once, established)
        self.samples += 1

    @contextmanager
    def watching(self, port: int) -> Iterator[None]:
        def watch() -> None:
            while not self._over.wait(0.1):
                self.look(port)

        thread = threading.Thread(target=watch, name="socket watch")
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()


def secrets_of(stack: Stack) -> dict[str, bytes]:
    """Return what no edge machine may know."""
    central = stack.central_home
    config = (central / "airflow.cfg").read_text()
    options = dict(line.split(" = ", 1) for line in config.splitlines() if " = " in line)
    secrets = {name: options[name].encode() for name in ("fernet_key", "secret_key", "jwt_secret")}
    keys = {str(path): path.read_bytes() for path in stack.directory.rglob("*.key") if "edge-1" not in path.parts}
    # Every JSON Web Token begins with the base64 of '{"'.
    return (
        secrets
        | keys
        | {
            "the api-server's address": stack.url.encode(),
            "the database": str(central / "airflow.db").encode(),
            "a token": b"eyJ",
        }
    )


def assert_knows_no_secret(stack: Stack, environments: list[bytes]) -> None:
    home = stack.worker_home("edge-1")
    logs = home / "logs"
    for name, secret in secrets_of(stack).items():
        assert not any(secret in environment for environment in environments), f"{name} is in an environment"
        for file in home.rglob("*"):
            if file.is_file() and not file.is_relative_to(logs):
                assert secret not in file.read_bytes(), f"{name} is in {file}"


def test_the_demo_dag_runs_green_over_one_connection_and_without_a_secret(stack: Stack) -> None:
    prepare_airflow(stack)
    watch = SocketWatch(stack.services[WORKER].pid)
    port = stack.worker_port("edge-1")
    with watch.watching(port):
        run_id = stack.trigger(DAG)
        stack.wait_until(lambda: len(process_tree(stack.services[WORKER].pid)) > 4, "tasks to run", timeout_s=60)
        tree = process_tree(stack.services[WORKER].pid)
        environments = [Path(f"/proc/{process.pid}/environ").read_bytes() for process in tree if process.is_running()]
        assert_knows_no_secret(stack, environments)
        assert stack.wait_run(DAG, run_id, timeout_s=200) == "success"
    assert watch.unexpected == set()
    assert watch.connections_at_once == 1
    assert watch.samples > 10
    assert watch.processes_seen > 4
    instances = {(i["task_id"], i["map_index"]): i for i in stack.task_instances(DAG, run_id)}
    assert {i["state"] for i in instances.values()} == {"success"}
    assert sum(task_id == "measure" for task_id, _ in instances) == 10
    assert instances["calibrate_gauge", -1]["try_number"] == 2
    assert assert_logs_equal(stack, DAG, run_id) == len(instances) + 1
    report = next(path for path in edge_logs(stack, DAG, run_id) if "task_id=report" in str(path))
    assert b"10 parts" in (stack.central_home / "logs" / report).read_bytes()
    assert_knows_no_secret(stack, [])
