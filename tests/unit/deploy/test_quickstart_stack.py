"""The quickstart's folder, ports and configuration, before anything is started."""

from __future__ import annotations

import configparser
import os
import socket
import stat
from pathlib import Path

import pytest
from rich.console import Console

from deploy.quickstart.airflow_homes import merged, worker_config, write_home
from deploy.quickstart.demo import DAGS, Demo
from deploy.quickstart.directory_lock import lock_directory
from deploy.quickstart.errors import DirectoryInUse
from deploy.quickstart.ports import HOST, Ports
from deploy.quickstart.services import WorkerSpec, bare_environment
from deploy.quickstart.stack import Stack
from edge_mqtt.certs.loading import load_credentials


def written(directory: Path) -> Stack:
    """Return a stack whose folder is written and which is not started."""
    stack = Stack(directory, dags=DAGS, workers=[WorkerSpec(name="lab-1", queues=("press",))])
    stack._claim = lock_directory(stack.directory, stack._marker)
    stack._write_homes()
    return stack


def test_folder_with_anything_else_in_it_is_never_cleared(tmp_path: Path) -> None:
    precious = tmp_path / "thesis.tex"
    precious.write_text("x")
    with pytest.raises(DirectoryInUse, match="not empty and not a stack's"):
        written(tmp_path)
    assert precious.read_text() == "x"


def test_folder_of_a_running_stack_is_refused_and_of_an_ended_one_is_cleared(tmp_path: Path) -> None:
    first = written(tmp_path / "demo")
    (first.central_home / "old.log").write_text("x")
    with pytest.raises(DirectoryInUse, match="a stack runs in"):
        written(tmp_path / "demo")
    assert (first.central_home / "old.log").exists()
    first.stop()
    second = written(tmp_path / "demo")
    assert not (second.central_home / "old.log").exists()
    second.stop()


def test_demo_in_a_folder_that_is_not_its_own_is_one_line_and_exit_code_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with Path(os.devnull).open("w") as nowhere:
        assert Demo(tmp_path, Console(file=nowhere)).run(once=True) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_each_party_gets_its_own_certificate_and_no_other(tmp_path: Path) -> None:
    stack = written(tmp_path / "demo")
    homes = {
        "bridge:bridge": stack.central_home / "certs" / "bridge",
        "executor:scheduler": stack.central_home / "certs" / "executor",
        "operator:demo": stack.operator_certs,
        "worker:lab-1": stack.worker_home("lab-1") / "certs",
    }
    for client_id, folder in homes.items():
        assert load_credentials(folder).identity.client_id == client_id
    keys = [path.name for path in stack.worker_home("lab-1").rglob("*.key")]
    assert keys == ["tls.key"]
    stack.stop()


def test_worker_s_home_knows_neither_database_nor_api_server_nor_a_secret(tmp_path: Path) -> None:
    stack = written(tmp_path / "demo")
    central = configparser.ConfigParser(interpolation=None)
    central.read(stack.central_home / "airflow.cfg")
    unknown = [
        central["core"]["fernet_key"],
        central["api_auth"]["jwt_secret"],
        central["api"]["secret_key"],
        central["api"]["base_url"],
        central["database"]["sql_alchemy_conn"],
        stack.password,
    ]
    for path in stack.worker_home("lab-1").rglob("*"):
        if path.is_file():
            assert not [secret for secret in unknown if secret in path.read_text()]
    stack.stop()


def test_files_with_secrets_are_their_owner_s_alone(tmp_path: Path) -> None:
    stack = written(tmp_path / "demo")
    for name in ("airflow.cfg", "passwords.json"):
        assert stat.S_IMODE((stack.central_home / name).stat().st_mode) == 0o600
    stack.stop()


def test_percent_signs_survive_airflow_s_interpolation(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_home(
        home,
        merged(worker_config(home, executor="LocalExecutor"), {"logging": {"log_format": "%(message)s"}}),
        dags=DAGS,
    )
    parser = configparser.ConfigParser()
    parser.read(home / "airflow.cfg")
    assert parser["logging"]["log_format"] == "%(message)s"


def test_port_that_is_taken_is_replaced_by_a_free_one() -> None:
    with socket.create_server((HOST, 0)) as taken:
        wanted = taken.getsockname()[1]
        ports = Ports.preferring(ui=wanted, bridge=0)
    assert ports.ui != wanted
    assert len({ports.ui, ports.bridge, ports.health}) == 3


def test_port_that_is_free_is_taken() -> None:
    with socket.create_server((HOST, 0)) as server:
        wanted = server.getsockname()[1]
    assert Ports.preferring(ui=wanted, bridge=0).ui == wanted


def test_environment_of_a_part_has_nothing_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://secret")
    environment = bare_environment(tmp_path, "marker")
    assert set(environment) == {
        "PATH", "HOME", "LANG", "AIRFLOW_HOME", "EDGE_STACK", "SPT_NOENV", "PYTHONUNBUFFERED",
    }  # fmt: skip
