"""The worker's settings, from the command line and from Airflow's configuration; its folder on disk."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edge_mqtt.broker_bridge.program.console import TEXT
from edge_mqtt.broker_bridge.program.log_files import LogModes
from edge_mqtt.broker_bridge.program.private_files import (
    DIRECTORY_MODE,
    FileUnusable,
    make_private_directory,
    try_lock,
)
from edge_mqtt.broker_bridge.program.settings import airflow_settings, schema
from edge_mqtt.broker_bridge.program.settings.sources import Values
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.topics import DEFAULT_PREFIX
from edge_mqtt.worker.errors import StateDirError

#: The end of the name of Airflow's class for Dags in a folder (airflow/dag_processing/bundles/local.py).
_LOCAL_BUNDLE: Final = ".LocalDagBundle"
#: Seconds of silence after which a task's supervisor counts as hung, besides what Airflow's settings allow it.
#: It has something to say once a second; generous, for slow boards.
HUNG_AFTER_S: Final = 60.0
#: Bytes of a unix socket's path at most (``sun_path`` of unix(7), without its end).
SOCKET_PATH_BYTES: Final = 107


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
                make_private_directory(folder)
                folder.chmod(DIRECTORY_MODE)
            lock = try_lock(self.path / "lock")
        except (FileUnusable, OSError) as error:
            raise StateDirError(f"the state folder cannot be used, {error}: choose another --state-dir") from error
        if lock is None:
            raise StateDirError(
                f"another edge-worker uses the state folder {self.path}: stop it, or choose another --state-dir"
            )
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
    #: Whether a log is deleted here when the bridge has all of it.
    deletes_logs: bool = False
    #: Folders from which tasks load their Dags.
    dag_folders: tuple[Path, ...] = ()
    topic_prefix: str = DEFAULT_PREFIX
    keep_alive_s: int = 25
    #: Seconds that running jobs get when the worker is asked to end; 0: as long as they take.
    drain_timeout_s: float = 0.0
    #: Bytes of one call of a task at most.
    max_message_bytes: int = MAX_MESSAGE_BYTES
    #: Seconds of silence after which a task's supervisor counts as hung.
    hung_after_s: float = HUNG_AFTER_S
    log_format: str = TEXT


def load_settings(values: Values) -> WorkerSettings:
    """Return the settings.

    :raises SettingError: one is missing or wrong.
    """
    # Launcher and supervisors go by these. What is wrong is told at the start.
    LogModes.of(values)
    values.get(airflow_settings.BUNDLE_CLEANUP_INTERVAL)
    return WorkerSettings(
        bridge_url=values[schema.BRIDGE_URL],
        certs=values[schema.WORKER_CERTS],
        queues=values[schema.WORKER_QUEUES],
        concurrency=values[schema.WORKER_CONCURRENCY],
        state=StateDir(path=values[schema.WORKER_STATE_DIR].absolute()),
        base_log_folder=values[airflow_settings.BASE_LOG_FOLDER].absolute(),
        deletes_logs=values[airflow_settings.DELETE_LOCAL_LOGS],
        dag_folders=_dag_folders(values),
        topic_prefix=values[schema.TOPIC_PREFIX],
        keep_alive_s=values[schema.KEEP_ALIVE],
        drain_timeout_s=values[schema.DRAIN_TIMEOUT],
        max_message_bytes=values[schema.MAX_MESSAGE_SIZE],
        hung_after_s=HUNG_AFTER_S + _longest_silence_s(values),
        log_format=values[schema.LOG_FORMAT],
    )


def _dag_folders(values: Values) -> tuple[Path, ...]:
    """Return the folders of the local Dag bundles; whether the rest makes sense is Airflow's to check."""
    dags_folder = values[airflow_settings.DAGS_FOLDER]
    try:
        bundles = json.loads(values[airflow_settings.DAG_BUNDLES])
        local = [bundle.get("kwargs") or {} for bundle in bundles if bundle["classpath"].endswith(_LOCAL_BUNDLE)]
        # As airflow/dag_processing/bundles/local.py has it.
        folders = [kwargs.get("path") or dags_folder for kwargs in local]
        return tuple(Path(folder).expanduser() for folder in folders if folder)
    except (ValueError, TypeError, AttributeError, LookupError):
        return ()


def _longest_silence_s(values: Values) -> float:
    """Return the seconds for which Airflow's own settings let a supervisor be silent while its task's process lives.

    It heartbeats this seldom, and not at all while callbacks and listeners run after the task's end.
    """
    return max(values[airflow_settings.MIN_HEARTBEAT_INTERVAL], values[airflow_settings.TASK_SUCCESS_OVERTIME])
