"""What an AIRFLOW_HOME of the stack holds: airflow.cfg, the Dags, certificates."""

from __future__ import annotations

import configparser
import shutil
from collections.abc import Mapping
from pathlib import Path

from deploy.quickstart.ports import HOST, Ports

#: Section -> option -> value.
Config = Mapping[str, Mapping[str, str]]

_PRIVATE = 0o600


def write_home(home: Path, config: Config, *, dags: Path) -> None:
    """Make an AIRFLOW_HOME with this configuration and a copy of these Dags."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home / "logs").mkdir(exist_ok=True)
    shutil.copytree(dags, home / "dags", dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    parser = configparser.ConfigParser(interpolation=None)
    for section, options in config.items():
        # Airflow interpolates %(...)s, so that a lone % must be doubled.
        parser[section] = {option: value.replace("%", "%%") for option, value in options.items()}
    path = home / "airflow.cfg"
    path.touch(mode=_PRIVATE)
    with path.open("w") as stream:
        parser.write(stream)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    path.touch(mode=_PRIVATE)
    path.write_text(text)


def merged(*configs: Config) -> Config:
    """Return the configurations put together, later ones over earlier ones."""
    result: dict[str, dict[str, str]] = {}
    for config in configs:
        for section, options in config.items():
            result.setdefault(section, {}).update(options)
    return result


def central_config(home: Path, *, ports: Ports, executor: str, bridge_url: str, secrets: Config) -> Config:
    """Return the configuration of everything that stands in the data centre."""
    return merged(
        {
            "core": {
                "executor": executor,
                "dags_folder": str(home / "dags"),
                "load_examples": "False",
                "dags_are_paused_at_creation": "False",
                "simple_auth_manager_users": "admin:admin",
                "simple_auth_manager_passwords_file": str(home / "passwords.json"),
            },
            # SQLite has one writer at a time, and five services of Airflow want to be it. On a slow disk its default
            # of five seconds is too short a wait, and Airflow's services end when it is over.
            "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}?timeout=60"},
            "logging": {"base_log_folder": str(home / "logs")},
            "api": {"host": HOST, "port": str(ports.ui), "base_url": f"http://{HOST}:{ports.ui}"},
            # A machine of two cores does everything here: one parser is enough, and new files are looked for often.
            "dag_processor": {"parsing_processes": "1", "refresh_interval": "10"},
            "edge_mqtt": {
                "bridge_url": bridge_url,
                "executor_certs": str(home / "certs" / "executor"),
                "bridge_certs": str(home / "certs" / "bridge"),
                "bridge_host": HOST,
                "bridge_port": str(ports.bridge),
                "health_port": str(ports.health),
            },
        },
        secrets,
    )


def worker_config(home: Path, *, executor: str) -> Config:
    """Return the configuration of an edge machine: no database, no api-server, no secret.

    It names Airflow's executors, because Airflow parses no Dag that names an executor it has not heard of.
    """
    return {
        "core": {"dags_folder": str(home / "dags"), "load_examples": "False", "executor": executor},
        "logging": {"base_log_folder": str(home / "logs")},
    }
