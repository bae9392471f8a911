"""The worker's settings: command line first, then Airflow's ``[edge_mqtt]``, then the defaults."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.protocol.errors import InvalidTopic
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.topics import DEFAULT_PREFIX, check_prefix
from edge_mqtt.broker_bridge.transport.endpoint import InvalidUrl, parse_url
from edge_mqtt.worker.errors import ConfigurationError, StateDirError

SECTION: Final = "edge_mqtt"
BASE_LOG_FOLDER: Final = "base_log_folder"
MIN_HEARTBEAT_INTERVAL: Final = "min_heartbeat_interval"
TASK_SUCCESS_OVERTIME: Final = "task_success_overtime"
DAGS_FOLDER: Final = "dags_folder"
DAG_BUNDLES: Final = "dag_bundle_config_list"
#: Which modules the launcher imports ahead of the tasks.
PRELOAD_IMPORTS: Final = "preload_imports"
#: Options outside our section that the worker goes by, and their sections.
AIRFLOW_OPTIONS: Final = {
    BASE_LOG_FOLDER: "logging",
    MIN_HEARTBEAT_INTERVAL: "workers",
    TASK_SUCCESS_OVERTIME: "core",
    DAGS_FOLDER: "core",
    DAG_BUNDLES: "dag_processor",
}
DEFAULT_QUEUE: Final = "default"
DEFAULT_CONCURRENCY: Final = 8
#: Seconds between MQTT pings.
DEFAULT_KEEP_ALIVE_S: Final = 60
#: The most that MQTT can say, in seconds [MQTT-3.1.2-24].
MOST_KEEP_ALIVE_S: Final = 65535
#: The end of the name of Airflow's class for Dags in a folder (airflow/dag_processing/bundles/local.py).
_LOCAL_BUNDLE: Final = ".LocalDagBundle"
#: Seconds of silence after which a task's supervisor counts as hung, besides what Airflow's settings allow it.
#: It has something to say once a second; generous, for slow boards.
HUNG_AFTER_S: Final = 60.0
#: Bytes of a message at least that must be allowed: what a task asks and is told without any data of its own.
LEAST_MESSAGE_BYTES: Final = 1024 * 1024
#: Bytes of a unix socket's path at most (``sun_path`` of unix(7), without its end).
SOCKET_PATH_BYTES: Final = 107


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """What was given on the command line; None where nothing was."""

    bridge: str | None = None
    certs: Path | None = None
    queues: str | None = None
    concurrency: int | None = None
    state_dir: Path | None = None
    drain_timeout: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StateDir:
    """The worker's folder on disk and what lies where in it."""

    path: Path

    @property
    def spool(self) -> Path:
        """The spool's file."""
        return self.path / "spool.db"

    @property
    def runs(self) -> Path:
        """The folder of the runs' files."""
        return self.path / "runs"

    @property
    def socket(self) -> Path:
        """The socket on which supervisors reach the Execution API."""
        return self.path / "api.sock"

    def prepare(self) -> int:
        """Make the folder ready and ours alone; return the descriptor that holds its lock.

        :raises StateDirError: it cannot be written, its path is too long or another worker has it.
        """
        if len(os.fsencode(self.socket)) > SOCKET_PATH_BYTES:
            raise StateDirError(
                f"the state folder {self.path} has too long a path for a socket: {self.socket} is over "
                f"{SOCKET_PATH_BYTES} bytes. Choose a shorter --state-dir"
            )
        try:
            for folder in (self.path, self.runs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                folder.chmod(0o700)
            lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateDirError(
                f"the state folder {self.path} cannot be written: {error.strerror}. Choose another --state-dir"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StateDirError(
                f"another edge-worker uses the state folder {self.path}: stop it, or choose another --state-dir"
            ) from None
        return lock


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """Everything that the worker goes by."""

    bridge_url: str
    certs: Path
    queues: tuple[str, ...]
    concurrency: int
    state: StateDir
    base_log_folder: Path
    #: Folders from which tasks load their Dags.
    dag_folders: tuple[Path, ...] = ()
    topic_prefix: str = DEFAULT_PREFIX
    keep_alive_s: int = DEFAULT_KEEP_ALIVE_S
    #: Seconds that running jobs get when the worker is asked to end; 0: as long as they take.
    drain_timeout_s: float = 0.0
    #: Bytes of one call of a task at most.
    max_message_bytes: int = MAX_MESSAGE_BYTES
    #: Seconds of silence after which a task's supervisor counts as hung.
    hung_after_s: float = HUNG_AFTER_S


@dataclass(frozen=True, kw_only=True, slots=True)
class AirflowSettings:
    """What Airflow's configuration says, as text."""

    values: Mapping[str, str] = field(default_factory=dict)

    def text(self, option: str, default: str = "") -> str:
        """Return an option's value."""
        return self.values.get(option, "") or default

    def number(self, option: str, default: float) -> float:
        """Return an option's value as a number of at least 0.

        :raises ConfigurationError: it is none.
        """
        text = self.text(option, str(default))
        try:
            number = float(text)
        except ValueError:
            number = -1.0
        if not (math.isfinite(number) and number >= 0):
            section = AIRFLOW_OPTIONS.get(option, SECTION)
            raise ConfigurationError(f"[{section}] {option} is {text!r}: it must be a number of at least 0")
        return number


def check_bridge_url(url: str) -> str:
    """Return ``url`` when it is a bridge's.

    :raises ConfigurationError: it is not.
    """
    try:
        parse_url(url)
    except InvalidUrl as error:
        raise ConfigurationError(f"the bridge's address {error}") from None
    return url


def check_concurrency(number: float) -> int:
    """Return ``number`` as slots.

    :raises ConfigurationError: it is not a whole number above 0.
    """
    if number < 1 or not float(number).is_integer():
        raise ConfigurationError(f"the concurrency is {number:g}: it must be a whole number of at least 1")
    return int(number)


def check_keep_alive(number: float) -> int:
    """Return ``number`` as seconds between MQTT pings.

    :raises ConfigurationError: MQTT has no such keep alive.
    """
    if not 1 <= number <= MOST_KEEP_ALIVE_S or not float(number).is_integer():
        raise ConfigurationError(
            f"[{SECTION}] keep_alive is {number:g}: it must be a whole number of seconds from 1 to "
            f"{MOST_KEEP_ALIVE_S}"
        )
    return int(number)


def check_message_size(number: float) -> int:
    """Return ``number`` as bytes of a message at most.

    :raises ConfigurationError: it is too small to work with, or over the protocol's own limit.
    """
    if not LEAST_MESSAGE_BYTES <= number <= MAX_MESSAGE_BYTES:
        raise ConfigurationError(
            f"[{SECTION}] max_message_size is {number:.0f}: it must be between {LEAST_MESSAGE_BYTES} and "
            f"{MAX_MESSAGE_BYTES} bytes"
        )
    return int(number)


def parse_names(text: str) -> tuple[str, ...]:
    """Return the names in ``a, b``, each once."""
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def parse_queues(text: str) -> tuple[str, ...]:
    """Return the queues in ``a,b``.

    :raises ConfigurationError: there is none.
    """
    queues = parse_names(text)
    if not queues:
        raise ConfigurationError("no queue is named: give --queues a,b")
    return queues


def check_options(options: Options) -> None:
    """Find what is wrong with the command line before anything is started.

    :raises ConfigurationError: something is.
    """
    if options.bridge is not None:
        check_bridge_url(options.bridge)
    if options.concurrency is not None:
        check_concurrency(options.concurrency)
    if options.queues is not None:
        parse_queues(options.queues)
    drain = options.drain_timeout
    if drain is not None and not (math.isfinite(drain) and drain >= 0):
        raise ConfigurationError(f"--drain-timeout is {drain:g}: it must be a number of at least 0")


def settle(options: Options, airflow: AirflowSettings) -> WorkerSettings:
    """Return the settings.

    :raises ConfigurationError: something is missing or wrong; one line that says what to do.
    """
    bridge = options.bridge or airflow.text("bridge_url")
    if not bridge:
        raise ConfigurationError(
            f"no bridge is named: give --bridge wss://HOST:443/mqtt, or set [{SECTION}] bridge_url"
        )
    certs = options.certs or _path(airflow.text("worker_certs"))
    if certs is None:
        raise ConfigurationError(
            f"no certificates: give --certs DIR (made by 'edge-certs issue worker NAME'), "
            f"or set [{SECTION}] worker_certs"
        )
    concurrency = options.concurrency or airflow.number("worker_concurrency", DEFAULT_CONCURRENCY)
    state = options.state_dir or _path(airflow.text("worker_state_dir")) or default_state_dir()
    drain = options.drain_timeout
    return WorkerSettings(
        bridge_url=check_bridge_url(bridge),
        certs=certs,
        queues=parse_queues(options.queues or airflow.text("worker_queues", DEFAULT_QUEUE)),
        concurrency=check_concurrency(concurrency),
        state=StateDir(path=state.expanduser().absolute()),
        base_log_folder=Path(airflow.text(BASE_LOG_FOLDER, "logs")).expanduser().absolute(),
        dag_folders=_dag_folders(airflow),
        topic_prefix=_topic_prefix(airflow),
        keep_alive_s=check_keep_alive(airflow.number("keep_alive", DEFAULT_KEEP_ALIVE_S)),
        drain_timeout_s=airflow.number("drain_timeout", 0.0) if drain is None else drain,
        max_message_bytes=check_message_size(airflow.number("max_message_size", MAX_MESSAGE_BYTES)),
        hung_after_s=HUNG_AFTER_S + _longest_silence_s(airflow),
    )


def _topic_prefix(airflow: AirflowSettings) -> str:
    try:
        return check_prefix(airflow.text("topic_prefix", DEFAULT_PREFIX))
    except InvalidTopic as error:
        raise ConfigurationError(f"[{SECTION}] {error}") from error


def _dag_folders(airflow: AirflowSettings) -> tuple[Path, ...]:
    """Return the folders of the local Dag bundles; whether the rest makes sense is Airflow's to check."""
    try:
        bundles = json.loads(airflow.text(DAG_BUNDLES, "[]"))
        local = [bundle.get("kwargs") or {} for bundle in bundles if bundle["classpath"].endswith(_LOCAL_BUNDLE)]
        # As airflow/dag_processing/bundles/local.py has it.
        folders = [kwargs.get("path") or airflow.text(DAGS_FOLDER) for kwargs in local]
        return tuple(Path(folder).expanduser() for folder in folders if folder)
    except (ValueError, TypeError, AttributeError, LookupError):
        return ()


def _longest_silence_s(airflow: AirflowSettings) -> float:
    """Return the seconds for which Airflow's own settings let a supervisor be silent while its task's process lives.

    It heartbeats this seldom, and not at all while callbacks and listeners run after the task's end.
    """
    return max(airflow.number(MIN_HEARTBEAT_INTERVAL, 1.0), airflow.number(TASK_SUCCESS_OVERTIME, 20.0))


def default_state_dir() -> Path:
    """Return where the state is kept when nobody says."""
    return Path(os.environ.get("AIRFLOW_HOME", "~/airflow")).expanduser() / "edge-mqtt" / "worker"


def _path(text: str) -> Path | None:
    home = os.environ.get("AIRFLOW_HOME", str(Path("~/airflow").expanduser()))
    return Path(text.replace("{AIRFLOW_HOME}", home)).expanduser() if text else None
