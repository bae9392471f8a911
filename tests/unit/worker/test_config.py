"""Settings: command line, Airflow's configuration, defaults; and the state folder."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edge_mqtt.worker.config import HUNG_AFTER_S, AirflowSettings, Options, StateDir, check_options, settle
from edge_mqtt.worker.errors import ConfigurationError, StateDirError
from edge_mqtt.worker.runs.launcher_client import launcher_environment

URL = "wss://bridge.example.com/mqtt"


def airflow(**values: str) -> AirflowSettings:
    return AirflowSettings(values={"bridge_url": URL, "worker_certs": "/certs", "base_log_folder": "/logs", **values})


def test_airflow_configuration_alone_is_enough() -> None:
    settings = settle(Options(), airflow(worker_queues="a, b,a", worker_concurrency="3", worker_state_dir="/s"))
    assert settings.bridge_url == URL
    assert settings.queues == ("a", "b")
    assert settings.concurrency == 3
    assert settings.state.path == Path("/s")
    assert settings.base_log_folder == Path("/logs")


def test_command_line_goes_before_airflow_configuration() -> None:
    options = Options(bridge="wss://other/mqtt", certs=Path("/mine"), queues="x", concurrency=1, drain_timeout=0)
    settings = settle(options, airflow(worker_queues="a", drain_timeout="60"))
    assert (settings.bridge_url, settings.certs, settings.queues) == ("wss://other/mqtt", Path("/mine"), ("x",))
    assert (settings.concurrency, settings.drain_timeout_s) == (1, 0)


def test_defaults_are_used_where_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/opt/airflow")
    settings = settle(Options(), airflow())
    assert (settings.queues, settings.concurrency, settings.keep_alive_s) == (("default",), 8, 60)
    assert settings.state.path == Path("/opt/airflow/edge-mqtt/worker")


def test_airflow_home_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_HOME", "/opt/airflow")
    assert settle(Options(), airflow(worker_state_dir="{AIRFLOW_HOME}/w")).state.path == Path("/opt/airflow/w")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (Options(bridge="http://bridge/mqtt"), "must look like wss://"),
        (Options(bridge="wss://bridge:port/mqtt"), "must look like wss://"),
        (Options(bridge="wss:///mqtt"), "must look like wss://"),
        (Options(concurrency=0), "at least 1"),
        (Options(queues=" , "), "no queue is named"),
        (Options(drain_timeout=-1), "--drain-timeout is -1: it must be a number of at least 0"),
        (Options(drain_timeout=float("inf")), "--drain-timeout is inf"),
        (Options(drain_timeout=float("nan")), "--drain-timeout is nan"),
    ],
)
def test_wrong_option_is_named_in_one_line(options: Options, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says) as caught:
        check_options(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"bridge_url": ""}, "no bridge is named"),
        ({"worker_certs": ""}, "no certificates"),
        ({"worker_concurrency": "many"}, "worker_concurrency is 'many'"),
        ({"worker_concurrency": "1.5"}, "whole number"),
        ({"worker_concurrency": "inf"}, "worker_concurrency is 'inf'"),
        ({"keep_alive": "nan"}, "keep_alive is 'nan'"),
        ({"keep_alive": "0"}, "keep_alive is 0: it must be a whole number of seconds from 1 to 65535"),
        ({"keep_alive": "1.5"}, "keep_alive is 1.5: it must be a whole number"),
        ({"keep_alive": "65536"}, "keep_alive is 65536: it must be"),
        ({"keep_alive": "1e99"}, "keep_alive is 1e"),
        ({"topic_prefix": "plant/7"}, "topic_prefix 'plant/7' must be one level"),
        ({"drain_timeout": "-1"}, "drain_timeout is '-1'"),
        ({"max_message_size": "1000"}, "max_message_size is 1000: it must be between 1048576 and 67108864 bytes"),
        ({"max_message_size": "67108865"}, "max_message_size is 67108865: it must be between"),
        ({"min_heartbeat_interval": "often"}, r"\[workers\] min_heartbeat_interval is 'often'"),
    ],
)
def test_wrong_setting_is_named_in_one_line(values: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        settle(Options(), airflow(**values))


@pytest.mark.parametrize("seconds", [1, 65535])
def test_every_keep_alive_of_mqtt_can_be_set(seconds: int) -> None:
    assert settle(Options(), airflow(keep_alive=str(seconds))).keep_alive_s == seconds


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
    settings = settle(Options(), airflow(dags_folder="/dags", dag_bundle_config_list=bundles))
    assert settings.dag_folders == tuple(map(Path, folders))


def test_calls_may_be_as_large_as_the_setting_says() -> None:
    assert settle(Options(), airflow()).max_message_bytes == 64 * 1024 * 1024
    assert settle(Options(), airflow(max_message_size="2000000")).max_message_bytes == 2_000_000


@pytest.mark.parametrize(
    ("interval", "overtime", "silence_s"), [("1", "20", 20.0), ("30", "20", 30.0), ("1", "600", 600.0)]
)
def test_supervisor_that_is_silent_as_airflows_settings_let_it_is_not_hung(
    interval: str, overtime: str, silence_s: float
) -> None:
    settings = settle(Options(), airflow(min_heartbeat_interval=interval, task_success_overtime=overtime))
    assert settings.hung_after_s == HUNG_AFTER_S + silence_s


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
            "AIRFLOW__LOGGING__DELETE_LOCAL_LOGS": "True",
        }
    )
    assert kept == {
        "PATH": "/bin",
        "AIRFLOW__CORE__DAGS_FOLDER": "/dags",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__LOGGING__DELETE_LOCAL_LOGS": "False",
    }


@pytest.mark.parametrize("name", ["AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "AIRFLOW__CORE__LOAD_EXAMPLES"])
def test_settings_of_the_user_are_kept(name: str) -> None:
    assert launcher_environment({name: "7"})[name] == "7"
