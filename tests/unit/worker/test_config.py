"""Settings: command line, Airflow's configuration, defaults; and the state folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edge_mqtt.broker_bridge.program.settings.setting import Reader, SettingError
from edge_mqtt.broker_bridge.program.settings.sources import AirflowConfiguration, CommandLine, Values
from edge_mqtt.worker.config import HUNG_AFTER_S, StateDir, WorkerSettings, load_settings
from edge_mqtt.worker.errors import StateDirError
from edge_mqtt.worker.launcher.environment import launcher_environment
from tests.support.fake_airflow_conf import FakeAirflowConf

URL = "wss://bridge.example.com/mqtt"


def settings(given: dict[str, str] | None = None, /, **in_airflow: str) -> WorkerSettings:
    """Return the settings of a worker.

    :param given: what was given on the command line, by the setting's name.
    """
    conf = FakeAirflowConf(**{"bridge_url": URL, "worker_certs": "/certs", "base_log_folder": "/logs", **in_airflow})
    airflow = AirflowConfiguration(conf, environ=os.environ)
    return load_settings(Values(Reader.WORKER, CommandLine(Reader.WORKER, given or {}), airflow))


def test_airflow_configuration_alone_is_enough() -> None:
    loaded = settings(worker_queues="a, b,a", worker_concurrency="3", worker_state_dir="/s")
    assert loaded.bridge_url == URL
    assert loaded.queues == ("a", "b")
    assert loaded.concurrency == 3
    assert loaded.state.path == Path("/s")
    assert loaded.base_log_folder == Path("/logs")


def test_command_line_goes_before_airflow_configuration() -> None:
    given = {"bridge_url": "wss://other/mqtt", "worker_queues": "x", "worker_concurrency": "1", "drain_timeout": "0"}
    loaded = settings(given, worker_queues="a", worker_concurrency="3", drain_timeout="60")
    assert (loaded.bridge_url, loaded.certs, loaded.queues) == ("wss://other/mqtt", Path("/certs"), ("x",))
    assert (loaded.concurrency, loaded.drain_timeout_s) == (1, 0)


def test_defaults_are_used_where_nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/opt/airflow")
    loaded = settings()
    assert (loaded.queues, loaded.concurrency, loaded.keep_alive_s) == (("default",), 8, 25)
    assert loaded.max_message_bytes == 64 * 1024 * 1024
    assert loaded.state.path == Path("/opt/airflow/edge-mqtt/worker")


@pytest.mark.parametrize(
    ("in_airflow", "says"),
    [
        ({"bridge_url": ""}, r"\[edge_mqtt\] bridge_url is not set: give --bridge"),
        ({"worker_concurrency": "1.5"}, "worker_concurrency is '1.5' .*a whole number from 1 to 1000000"),
        (
            {"file_task_handler_new_file_permissions": "rw-r-----"},
            r"\[logging\] file_task_handler_new_file_permissions is 'rw-r-----' .*: it must be an octal number",
        ),
        ({"delete_local_logs": "some"}, r"\[logging\] delete_local_logs is 'some' .*: it must be true or false"),
        (
            {"stale_bundle_cleanup_interval": "daily"},
            r"\[dag_processor\] stale_bundle_cleanup_interval is 'daily' .*: it must be a whole number",
        ),
        ({"min_heartbeat_interval": "often"}, r"\[workers\] min_heartbeat_interval is 'often'"),
    ],
)
def test_wrong_setting_is_named_in_one_line(in_airflow: dict[str, str], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        settings(**in_airflow)


@pytest.mark.parametrize(
    ("bundles", "folders"),
    [
        ('[{"name": "dags-folder", "classpath": "a.LocalDagBundle", "kwargs": {}}]', ("/dags",)),
        ('[{"name": "l", "classpath": "a.LocalDagBundle", "kwargs": {"path": "/mine"}}]', ("/mine",)),
        ('[{"name": "git", "classpath": "a.GitDagBundle", "kwargs": {}}]', ()),
        ("nonsense", ()),
        ("", ()),
    ],
)
def test_folders_of_dags_are_those_of_the_local_bundles(bundles: str, folders: tuple[str, ...]) -> None:
    loaded = settings(dags_folder="/dags", dag_bundle_config_list=bundles)
    assert loaded.dag_folders == tuple(map(Path, folders))


@pytest.mark.parametrize(
    ("interval", "overtime", "silence_s"), [("1", "20", 20.0), ("30", "20", 30.0), ("1", "600", 600.0)]
)
def test_supervisor_that_is_silent_as_airflows_settings_let_it_is_not_hung(
    interval: str, overtime: str, silence_s: float
) -> None:
    loaded = settings(min_heartbeat_interval=interval, task_success_overtime=overtime)
    assert loaded.hung_after_s == HUNG_AFTER_S + silence_s


@pytest.mark.parametrize(("text", "deletes"), [("True", True), ("1", True), ("false", False), ("", False)])
def test_logs_are_deleted_when_airflow_s_setting_says_so(text: str, deletes: bool) -> None:
    assert settings(delete_local_logs=text).deletes_logs is deletes


def test_state_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    state = StateDir(path=tmp_path / "deep" / "state")
    os.close(state.prepare())
    assert stat.S_IMODE(state.path.stat().st_mode) == 0o700
    assert stat.S_IMODE(state.runs.stat().st_mode) == 0o700


def test_second_worker_on_one_state_folder_is_refused(tmp_path: Path) -> None:
    state = StateDir(path=tmp_path)
    lock = state.prepare()
    with pytest.raises(StateDirError, match="another edge-worker uses the state folder"):
        state.prepare()
    os.close(lock)
    os.close(state.prepare())


def test_state_folder_with_too_long_a_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StateDirError, match="too long a path"):
        StateDir(path=tmp_path / ("x" * 100)).prepare()


def test_state_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateDirError, match="cannot be written"):
        StateDir(path=tmp_path / "file" / "state").prepare()


def test_task_environment_has_nothing_of_the_data_centre() -> None:
    kept = launcher_environment(
        {
            "PATH": "/bin",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://secret",
            "AIRFLOW__API_AUTH__JWT_SECRET": "secret",
            "AIRFLOW__CORE__FERNET_KEY": "secret",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://api:8080/execution/",
            "AIRFLOW__CORE__DAGS_FOLDER": "/dags",
        }
    )
    assert kept == {"PATH": "/bin", "AIRFLOW__CORE__DAGS_FOLDER": "/dags"}
