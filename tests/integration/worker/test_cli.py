"""The edge-worker command: what it says and how it ends."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.exit_codes import ExitCode
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store
from edge_mqtt.worker.config import StateDir
from tests.support.worker_program import WAIT_S, Site, broker, new_site, options, start


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return new_site(tmp_path)


@pytest.fixture
def live_site(site: Site) -> Iterator[Site]:
    with broker(site) as port:
        yield Site(certs=site.certs, url=f"wss://localhost:{port}/mqtt")


def test_help_names_every_option(tmp_path: Path) -> None:
    program = start(tmp_path, "--help", environment={"COLUMNS": "200"})
    stdout, _ = program.process.communicate(timeout=WAIT_S)
    for option in ("--bridge", "--certs", "--queues", "--concurrency", "--state-dir", "--drain-timeout"):
        assert option in stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--bridge", "https://bridge/mqtt"), "it must be of the form wss://"),
        (("--concurrency", "0"), "from 1 to 1000000"),
        (("--queues", ","), "--queues is ',': it must be one or more names"),
        (("--drain-timeout", "-1"), "--drain-timeout is '-1'"),
        (("--bridge", "wss://bridge/mqtt", "--certs", "/no/such/folder"), "/no/such/folder"),
        ((), "[edge_mqtt] bridge_url is not set: give --bridge"),
        (("--bridge", "wss://bridge/mqtt"), "[edge_mqtt] worker_certs is not set: give --certs"),
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


def test_broken_airflow_configuration_is_one_line_and_exit_code_2(tmp_path: Path, site: Site) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "airflow.cfg").write_text("this is no configuration\n")
    code, stderr = start(tmp_path, *options(site, "lab-1", tmp_path)).end()
    assert code == ExitCode.USAGE
    (line,) = stderr.splitlines()
    assert line.startswith("edge-worker: Airflow's configuration cannot be used: ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[edge_mqtt]\nkeep_alive\n", "keep_alive"),
        ("[logging]\nlogging_level = LOUD\n", "LOUD"),
        ("[edge_mqtt]\nworker_queues = %(nowhere)s\n", "nowhere"),
    ],
)
def test_setting_that_airflow_cannot_read_is_named_in_one_line(
    tmp_path: Path, site: Site, content: str, says: str
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "airflow.cfg").write_text(content)
    code, stderr = start(tmp_path, *options(site, "lab-1", tmp_path)).end()
    assert code == ExitCode.USAGE
    assert says in stderr
    assert len(stderr.splitlines()) == 1


def test_version_is_shown(tmp_path: Path) -> None:
    stdout, _ = start(tmp_path, "--version").process.communicate(timeout=WAIT_S)
    assert stdout == f"airflow-edge-mqtt {version('airflow-edge-mqtt')}\n"


@pytest.mark.parametrize("there", [True, False])
def test_folder_of_dags_that_is_not_there_is_warned_about(tmp_path: Path, live_site: Site, there: bool) -> None:
    dags = tmp_path / "dags"
    if there:
        dags.mkdir()
    environment = {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path), environment=environment)
    assert program.process.stderr is not None
    said = list(takewhile(lambda line: "connected to" not in line, program.process.stderr))
    assert sum(f"WARNING there is no folder {dags}" in line for line in said) == (not there)
    assert program.end(signal.SIGINT)[0] == ExitCode.DONE


def test_log_lines_have_their_action(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path))
    assert "[action=starting worker=lab-1]" in program.line("worker lab-1")
    assert "action=connected" in program.line("connected to")
    assert program.end(signal.SIGINT)[0] == ExitCode.DONE


def test_log_lines_are_json_when_asked(tmp_path: Path, live_site: Site) -> None:
    environment = {"AIRFLOW__EDGE_MQTT__LOG_FORMAT": "json"}
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path), environment=environment)
    first = json.loads(program.line("worker lab-1"))
    assert (first["action"], first["worker"], first["level"]) == ("starting", "lab-1", "info")
    assert json.loads(program.line("connected to"))["action"] == "connected"
    code, stderr = program.end(signal.SIGINT)
    assert code == ExitCode.DONE
    assert all("action" in json.loads(line) for line in stderr.splitlines())


def test_interrupts_up_to_the_very_end_do_not_change_how_it_ends(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path))
    program.line("connected to")
    while program.process.poll() is None:
        program.process.send_signal(signal.SIGINT)
        time.sleep(0.001)
    code, stderr = program.end()
    assert code == ExitCode.DONE
    assert "Aborted" not in stderr
    assert "stopping" not in stderr


def test_airflow_that_cannot_be_loaded_is_said_to_be_that_after_the_reason(tmp_path: Path, site: Site) -> None:
    settings = tmp_path / "home" / "config" / "airflow_local_settings.py"
    settings.parent.mkdir(parents=True)
    settings.write_text("raise RuntimeError('spoilt by hand')\n")
    code, stderr = start(tmp_path, *options(site, "lab-1", tmp_path)).end()
    assert code == ExitCode.FAILED
    assert "RuntimeError: spoilt by hand" in stderr
    assert stderr.splitlines()[-1].startswith("edge-worker: Airflow could not be loaded")


def test_worker_connects_says_so_and_ends_at_once_when_idle(tmp_path: Path, live_site: Site) -> None:
    program = start(tmp_path, *options(live_site, "lab-1", tmp_path), "--queues", "a,b", "--concurrency", "3")
    banner = program.line("worker lab-1")
    assert "queues a, b" in banner
    assert "concurrency 3" in banner
    assert live_site.url in banner
    program.line("connected to")
    code, stderr = program.end(signal.SIGINT)
    assert code == ExitCode.DONE
    assert "draining" in stderr
    assert "Traceback" not in stderr


def test_settings_come_from_airflows_configuration(tmp_path: Path, live_site: Site) -> None:
    program = start(
        tmp_path,
        environment={
            "AIRFLOW__EDGE_MQTT__BRIDGE_URL": live_site.url,
            "AIRFLOW__EDGE_MQTT__WORKER_CERTS": str(live_site.folder(Role.WORKER, "lab-2")),
            "AIRFLOW__EDGE_MQTT__WORKER_QUEUES": "press,oven",
            "AIRFLOW__EDGE_MQTT__WORKER_CONCURRENCY": "2",
        },
    )
    banner = program.line("worker lab-2")
    assert "queues press, oven, concurrency 2" in banner
    assert str(tmp_path / "home" / "edge-mqtt" / "worker") in banner
    program.line("connected to")
    assert program.end(signal.SIGTERM)[0] == ExitCode.DONE


def test_second_worker_of_a_name_ends_with_exit_code_4_and_the_first_goes_on(tmp_path: Path, live_site: Site) -> None:
    quick = {"AIRFLOW__EDGE_MQTT__KEEP_ALIVE": "1"}
    first = start(tmp_path, *options(live_site, "lab-1", tmp_path), environment=quick)
    first.line("connected to")
    arguments = (*options(live_site, "lab-1", tmp_path)[:-1], str(tmp_path / "other"))
    code, stderr = start(tmp_path, *arguments, environment=quick).end()
    assert code == ExitCode.NAME_IN_USE
    assert "Traceback" not in stderr
    assert first.process.poll() is None
    assert first.end(signal.SIGTERM)[0] == ExitCode.DONE


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
    assert code == ExitCode.FAILED
    assert "set the clock" in stderr
    assert len(stderr.strip().splitlines()) == 1
