"""``edge-bridge`` as its operator meets it: it starts, answers, stops, and explains in one line what is wrong."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from edge_mqtt.broker_bridge.cli import app
from edge_mqtt.broker_bridge.dispatch.core.model import CentralJobState, Job
from edge_mqtt.broker_bridge.dispatch.ledger.sql import SqlLedger
from edge_mqtt.broker_bridge.protocol.ids import ExecutorName, JobId, WorkerName
from edge_mqtt.broker_bridge.protocol.messages import JobSpec, Outcome, WorkloadType
from edge_mqtt.certs.identity import Identity, Role
from tests.support.bridge_program import Site, free_port, wait_until_healthy


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    place = Site(tmp_path)
    yield place
    for process in place.started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_answers_and_ends_cleanly(site: Site, number: signal.Signals) -> None:
    health_port = free_port()
    process = site.start(health_port=health_port)
    wait_until_healthy(health_port)
    assert httpx.get(f"http://127.0.0.1:{health_port}/", trust_env=False).status_code == 404
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert "bridge is ready" in err
    assert "Traceback" not in err
    assert oct((site.folder / "airflow" / "edge-mqtt" / "ledger.db").stat().st_mode)[-3:] == "600"


def test_log_lines_are_json_when_asked(site: Site) -> None:
    health_port = free_port()
    process = site.start("--log-format", "json", health_port=health_port)
    wait_until_healthy(health_port)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=20)
    lines = [json.loads(line) for line in err.splitlines()]
    assert "ready" in {line.get("action") for line in lines}
    assert all({"timestamp", "level", "logger", "message"} <= set(line) for line in lines)


def test_a_kept_log_whose_line_was_due_when_the_bridge_died_gets_it_at_the_next_start(site: Site) -> None:
    spec = JobSpec(job_id=JobId("j"), type=WorkloadType.TASK, queue="cameras", log_path="dag_id=d/attempt=1.log")
    began = Job(
        spec=spec,
        executor=ExecutorName("main"),
        lease_s=935.0,
        ships_log=False,
        state=CentralJobState.FINISHED,
        worker=WorkerName("lab-3"),
        starter="lab-3:7",
        outcome=Outcome.SUCCESS,
        event_acked=True,
        log_size=0,
    )
    ledger = SqlLedger(f"sqlite:///{site.folder}/airflow/edge-mqtt/ledger.db")
    ledger.commit([began])
    ledger.close()
    site.start()
    log_file = site.folder / "airflow" / "logs" / "dag_id=d" / "attempt=1.log"
    deadline = time.monotonic() + 60
    while not (log_file.exists() and log_file.read_bytes().endswith(b"\n")):
        assert time.monotonic() < deadline, "nothing says where the log is"
        time.sleep(0.1)
    assert "the log stays on worker lab-3" in json.loads(log_file.read_bytes())["event"]


def test_a_second_bridge_on_one_ledger_is_refused_and_the_first_goes_on(site: Site) -> None:
    health_port = free_port()
    site.start(health_port=health_port)
    wait_until_healthy(health_port)
    assert "ledger" in site.refusal()
    wait_until_healthy(health_port)


def test_a_port_in_use_is_named(site: Site) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = site.refusal("--host", "127.0.0.1", port=port)
    assert f"127.0.0.1:{port}" in line
    assert "--port" in line


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--certs", "/nowhere"], "/nowhere"),
        (["--port", "70000"], "--port is '70000': it must be a whole number from 0 to 65535"),
        (["--offline-grace", "5"], "offline_grace"),
        (["--presence-interval", "1000"], "presence_interval"),
        (["--queue-offline-grace", "ship"], "queue=seconds"),
        (
            ["--heartbeat-interval", "0"],
            "--heartbeat-interval is '0': it must be a number of seconds from 0.1 to 1000000000",
        ),
        (["--offline-grace", "nan"], "--offline-grace is 'nan'"),
        (["--kill-grace", "-1"], "--kill-grace is '-1'"),
        (["--topic-prefix", "a/b#"], "--topic-prefix is 'a/b#': it must be one level of a topic"),
        (["--execution-api-url", "foo"], "http://HOST:PORT/execution/"),
        (["--log-folder", "/proc/nope"], "/proc/nope"),
        (["--ledger-url", "not a url"], "ledger"),
        (["--ledger-url", "sqlite:////proc/ledger.db"], "ledger"),
    ],
)
def test_a_wrong_setting_is_explained_in_one_line(site: Site, options: list[str], says: str) -> None:
    assert says in site.refusal(*options)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[edge_mqtt]\nkeep_alive\n", "Airflow's configuration cannot be used: "),
        ("[logging]\nlogging_level = LOUD\n", "Airflow's configuration cannot be used: "),
        ("[edge_mqtt]\nbridge_host = %(nowhere)s\n", "[edge_mqtt] bridge_host cannot be read (from "),
    ],
)
def test_a_setting_that_airflow_cannot_read_is_named_in_one_line(site: Site, content: str, says: str) -> None:
    (site.folder / "airflow").mkdir()
    (site.folder / "airflow" / "airflow.cfg").write_text(content)
    line = site.refusal()
    assert line.startswith(f"edge-bridge: {says}")


def test_help_keeps_what_is_in_brackets() -> None:
    text = CliRunner().invoke(app, ["--help"], terminal_width=200).output
    assert "(bridge_port; default 443)" in text
    assert "[logging] base_log_folder" in text
    assert "section [edge_mqtt]" in text


def test_version_is_the_distribution_s() -> None:
    shown = CliRunner().invoke(app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"airflow-edge-mqtt {version('airflow-edge-mqtt')}\n")


def test_a_worker_s_certificate_does_not_make_a_bridge(site: Site) -> None:
    identity = Identity(Role.WORKER, "lab-3")
    site.certificates.issue(identity, force=False, now=datetime.now(UTC))
    assert "worker:lab-3, not of a bridge" in site.refusal("--certs", str(site.certificates.folder(identity)))
