"""Settings of Airflow's own sections that our programs go by. Their defaults are Airflow's."""

from __future__ import annotations

from typing import Final

from edge_mqtt.broker_bridge.program.settings.kinds import Flag, Folder, Mode, Number, Text, Url, WholeNumber
from edge_mqtt.broker_bridge.program.settings.setting import Reader, Setting

_BRIDGE, _EXECUTOR, _WORKER, _ = Reader

_DURATION: Final = Number(least=0, unit="seconds")

BASE_LOG_FOLDER: Final = Setting(
    section="logging",
    name="base_log_folder",
    kind=Folder(),
    readers={_BRIDGE: "--log-folder", _WORKER: None},
    help="Folder below which task logs are written.",
)
DELETE_LOCAL_LOGS: Final = Setting(
    section="logging",
    name="delete_local_logs",
    kind=Flag(),
    readers={_WORKER: None},
    help="Whether a task's log is deleted on the worker when the bridge has all of it.",
    default="False",
)
NEW_FOLDER_MODE: Final = Setting(
    section="logging",
    name="file_task_handler_new_folder_permissions",
    kind=Mode(),
    readers={_BRIDGE: None, _WORKER: None},
    help="Permissions of new folders of task logs.",
    default="0o775",
)
NEW_FILE_MODE: Final = Setting(
    section="logging",
    name="file_task_handler_new_file_permissions",
    kind=Mode(),
    readers={_BRIDGE: None, _WORKER: None},
    help="Permissions of new files of task logs.",
    default="0o664",
)
EXECUTION_API_URL: Final = Setting(
    section="core",
    name="execution_api_server_url",
    kind=Url(schemes=("http", "https"), example="http://HOST:PORT/execution/"),
    readers={_BRIDGE: "--execution-api-url"},
    help="Address of Airflow's Execution API.",
)
API_BASE_URL: Final = Setting(
    section="api",
    name="base_url",
    kind=Text(),
    readers={_BRIDGE: None},
    help="Address of the api-server, from which that of the Execution API follows.",
)
DEFAULT_QUEUE: Final = Setting(
    section="operators",
    name="default_queue",
    kind=Text(),
    readers={_EXECUTOR: None},
    help="The queue of workloads that name none.",
    default="default",
)
ORPHANED_TASKS_CHECK_INTERVAL: Final = Setting(
    section="scheduler",
    name="orphaned_tasks_check_interval",
    kind=_DURATION,
    readers={_EXECUTOR: None},
    help="Seconds between a scheduler's looks for tasks of a scheduler that died.",
    default="300",
)
SCHEDULER_DEAD_AFTER: Final = Setting(
    section="scheduler",
    name="scheduler_health_check_threshold",
    kind=_DURATION,
    readers={_EXECUTOR: None},
    help="Seconds without a heartbeat after which a scheduler counts as dead.",
    default="30",
)
TASK_QUEUED_TIMEOUT: Final = Setting(
    section="scheduler",
    name="task_queued_timeout",
    kind=_DURATION,
    readers={_EXECUTOR: None},
    help="Seconds that a workload may wait for a worker.",
    default="600",
)
MIN_HEARTBEAT_INTERVAL: Final = Setting(
    section="workers",
    name="min_heartbeat_interval",
    kind=_DURATION,
    readers={_WORKER: None},
    help="Seconds between a supervisor's looks at its task, and its heartbeats.",
    default="1",
)
TASK_SUCCESS_OVERTIME: Final = Setting(
    section="core",
    name="task_success_overtime",
    kind=_DURATION,
    readers={_WORKER: None},
    help="Seconds that callbacks and listeners have after a task's end.",
    default="20",
)
DAGS_FOLDER: Final = Setting(
    section="core",
    name="dags_folder",
    kind=Text(),
    readers={_WORKER: None},
    help="Folder of the Dags.",
    default="",
)
DAG_BUNDLES: Final = Setting(
    section="dag_processor",
    name="dag_bundle_config_list",
    kind=Text(),
    readers={_WORKER: None},
    help="Where Dags come from, in JSON.",
    default="[]",
)
BUNDLE_CLEANUP_INTERVAL: Final = Setting(
    section="dag_processor",
    name="stale_bundle_cleanup_interval",
    kind=WholeNumber(least=-(2**31), unit="seconds"),
    readers={_WORKER: None},
    help="Seconds between looks for old versions of Dag bundles; none when it is not above 0.",
    default="1800",
)
