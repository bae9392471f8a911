"""The edge-worker command: what it says and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.broker.embedded import EmbeddedBroker
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.loading import load_party
from edge_mqtt.certs.store import Store
from edge_mqtt.certs.tls import server_context
from edge_mqtt.worker.app import ExitCode
from edge_mqtt.worker.cli import EXIT_FAILURE
from edge_mqtt.worker.config import StateDir

WAIT_S = 60


@dataclass(frozen=True, kw_only=True)
class Site:
    """Certificates, and a running broker's address."""

    certs: Path
    url: str = "wss://localhost:1/mqtt"

    def folder(self, role: Role, name: str) -> Path:
        """Return a party's folder, issuing its certificate if there is none."""
        store = Store(self.certs)
        identity = Identity(role, name)
        if not store.folder(identity).exists():
            store.issue(identity, force=False, now=datetime.now(UTC))
        return store.folder(identity)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    certs = tmp_path / "certs"
    Store(certs).create(hosts=["localhost"], force=False, now=datetime.now(UTC))
    return Site(certs=certs)


@pytest.fixture
def live_site(site: Site) -> Iterator[Site]:
    with broker(site) as port:
        yield Site(certs=site.certs, url=f"wss://localhost:{port}/mqtt")


@contextmanager
def broker(site: Site) -> Iterator[int]:
    """Run the bridge's broker in a thread."""
    loop = asyncio.new_event_loop()
    context = server_context(load_party(site.certs / "bridge"))
    embedded = EmbeddedBroker(ssl_context=context, topics=Topics(), host="127.0.0.1", port=0)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(embedded.start(), loop).result(WAIT_S)
    try:
        yield embedded.port
    finally:
        asyncio.run_coroutine_threadsafe(embedded.stop(), loop).result(WAIT_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass
class Program:
    """A running edge-worker."""

    process: subprocess.Popen[str]

    def line(self, text: str) -> str:
        """Read stderr up to the line with ``text``."""
        assert self.process.stderr is not None
        seen = []
        for line in self.process.stderr:
            seen.append(line)
            if text in line:
                return line
        raise AssertionError(f"no {text!r} in {seen}")

    def end(self, signum: signal.Signals | None = None) -> tuple[int, str]:
        """Wait for the end; return the exit code and what was left on stderr."""
        if signum is not None:
            self.process.send_signal(signum)
        _, rest = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, rest


def start(tmp_path: Path, *arguments: str, **environment: str) -> Program:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", "from edge_mqtt.worker.cli import main; main()", *arguments],
        env={**os.environ, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "false", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return Program(process)


def options(site: Site, name: str, tmp_path: Path) -> tuple[str, ...]:
    return (
        "--bridge",
        site.url,
        "--certs",
        str(site.folder(Role.WORKER, name)),
        "--state-dir",
        str(tmp_path / f"state-{name}"),
    )


def test_help_names_every_option(tmp_path: Path) -> None:
    program = start(tmp_path, "--help", COLUMNS="200")
    stdout, _ = program.process.communicate(timeout=WAIT_S)
    for option in ("--bridge", "--certs", "--queues", "--concurrency", "--state-dir", "--drain-timeout"):
        assert option in stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bridge", "https://bridge/mqtt"), "must look like wss://"),
        (("--concurrency", "0"), "at least 1"),
        (("--queues", ","), "no queue is named"),
        (("--certs", "/no/such/folder"), "/no/such/folder"),
        ((), "no bridge is named: give --bridge"),
        (("--bridge", "wss://bridge/mqtt"), "no certificates: give --certs DIR"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    code, stderr = start(tmp_path, *arguments).end()
    assert code == ExitCode.USAGE
    assert says in stderr
    assert len(stderr.splitlines()) == 1


def test_certificate_of_another_role_is_one_line_and_exit_code_2(tmp_path: Path, site: Site) -> None:
    folder = site.folder(Role.EXECUTOR, "main")
    code, stderr = start(tmp_path, "--bridge", site.url, "--certs", str(folder)).end()
    assert code == ExitCode.USAGE
    assert "executor:main, not of a worker" in stderr
    assert len(stderr.splitlines()) == 1


def test_state_folder_in_use_is_one_line_and_exit_code_2(tmp_path: Path, site: Site) -> None:
    lock = StateDir(path=tmp_path / "state-lab-1").prepare()
    code, stderr = start(tmp_path, *options(site, "lab-1", tmp_path)).end()
    os.close(lock)
    assert code == ExitCode.USAGE
    assert "another edge-worker uses the state folder" in stderr
    assert len(stderr.splitlines()) == 1


def test_broken_airflow_configuration_is_said_to_be_that(tmp_path: Path, site: Site) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "airflow.cfg").write_text("this is no configuration\n")
    code, stderr = start(tmp_path, *options(site, "lab-1", tmp_path)).end()
    assert code == 1
    assert stderr.splitlines()[-1].startswith("edge-worker: Airflow could not be loaded")


def test_worker_connects_says_so_and_ends_at_once_when_idle(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path), "--queues", "a,b", "--concurrency", "3")
    banner = program.line("worker lab-1")
    assert "queues a, b" in banner
    assert "concurrency 3" in banner
    assert live_site.url in banner
    program.line("connected to")
    code, stderr = program.end(signal.SIGINT)
    assert code == ExitCode.DRAINED
    assert "draining" in stderr
    assert "Traceback" not in stderr


def test_settings_come_from_airflows_configuration(tmp_path: Path, live_site: Site) -> None:
    program = start(
        tmp_path,
        AIRFLOW__EDGE_MQTT__BRIDGE_URL=live_site.url,
        AIRFLOW__EDGE_MQTT__WORKER_CERTS=str(live_site.folder(Role.WORKER, "lab-2")),
        AIRFLOW__EDGE_MQTT__WORKER_QUEUES="press,oven",
        AIRFLOW__EDGE_MQTT__WORKER_CONCURRENCY="2",
    )
    banner = program.line("worker lab-2")
    assert "queues press, oven, concurrency 2" in banner
    assert str(tmp_path / "home" / "edge-mqtt" / "worker") in banner
    program.line("connected to")
    assert program.end(signal.SIGTERM)[0] == ExitCode.DRAINED


def test_second_worker_of_a_name_ends_with_exit_code_4_and_the_first_goes_on(tmp_path: Path, live_site: Site) -> None:
    quick = {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": "1"}
    first = start(tmp_path, *options(live_site, "lab-1", tmp_path), **quick)
    first.line("connected to")
    arguments = (*options(live_site, "lab-1", tmp_path)[:-1], str(tmp_path / "other"))
    code, stderr = start(tmp_path, *arguments, **quick).end()
    assert code == ExitCode.NAME_IN_USE
    assert "Traceback" not in stderr
    assert first.process.poll() is None
    assert first.end(signal.SIGTERM)[0] == ExitCode.DRAINED


def test_certificate_of_another_authority_ends_with_exit_code_3(tmp_path: Path, live_site: Site) -> None:
    other = Site(certs=tmp_path / "other-certs", url=live_site.url)
    Store(other.certs).create(hosts=["localhost"], force=False, now=datetime.now(UTC))
    code, stderr = start(tmp_path, *options(other, "lab-1", tmp_path)).end()
    assert code == ExitCode.REFUSED
    assert "Traceback" not in stderr


def test_clock_that_is_behind_is_named_and_is_worth_another_start(tmp_path: Path) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    site = Site(certs=tmp_path / "certs")
    store = Store(site.certs)
    store.create(hosts=["localhost"], force=False, now=tomorrow)
    store.issue(Identity(Role.WORKER, "early"), force=False, now=tomorrow)
    code, stderr = start(tmp_path, *options(site, "early", tmp_path)).end()
    assert code == EXIT_FAILURE
    assert "set the clock" in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_launcher_tells_what_of_airflows_own_settings_the_worker_goes_by(tmp_path: Path) -> None:
    script = "import json, edge_mqtt.worker.launcher_main as main; print(json.dumps(main.read_settings()))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__TASK_SUCCESS_OVERTIME": "77"},
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["task_success_overtime"] == "77"
    assert told["base_log_folder"] == str(tmp_path / "logs")
    assert float(told["min_heartbeat_interval"]) > 0
