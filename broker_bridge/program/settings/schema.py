"""The settings of ``[edge_mqtt]``, each once.

Airflow's provider info, the programs' readers, their options and ``--help``, the errors about wrong values and the
tables of the documentation all come from here. To add a setting, add it here, read it in its program's configuration
and run ``make docs``.
"""

from __future__ import annotations

from typing import Any, Final

from edge_mqtt.broker_bridge.program.console import JSON, TEXT
from edge_mqtt.broker_bridge.program.settings import airflow_settings
from edge_mqtt.broker_bridge.program.settings.kinds import (
    Choice,
    Folder,
    Names,
    Number,
    NumberByName,
    Text,
    Url,
    WholeNumber,
)
from edge_mqtt.broker_bridge.program.settings.setting import Reader, Setting, settings_in

_BRIDGE, _EXECUTOR, _WORKER, _OPERATOR = Reader

_ANY_PORT: Final = WholeNumber(least=0, most=65535)
#: Seconds of a duration at most: thirty years, which every message can carry.
_MOST_S: Final = 1e9
#: Seconds that a grace must last at least.
_GRACE: Final = Number(least=1, most=_MOST_S, unit="seconds")
#: Seconds between two messages at least: what is sent more often is a flood.
_INTERVAL: Final = Number(least=0.1, most=_MOST_S, unit="seconds")
_DURATION: Final = Number(least=0, most=_MOST_S, unit="seconds")

# ---------------------------------------------------------------- the way to the bridge

BRIDGE_URL: Final = Setting(
    name="bridge_url",
    kind=Url(schemes=("wss",), example="wss://bridge.example.com:443/mqtt"),
    readers={_EXECUTOR: None, _WORKER: "--bridge", _OPERATOR: "--bridge"},
    help="Where the bridge is.",
    example="wss://bridge.example.com:443/mqtt",
)

# ---------------------------------------------------------------- the bridge

BRIDGE_CERTS: Final = Setting(
    name="bridge_certs",
    kind=Folder(),
    readers={_BRIDGE: "--certs"},
    help="Folder with the bridge's ca.crt, tls.crt and tls.key, made by `edge-certs init`.",
    example="/etc/edge-mqtt/bridge",
)
BRIDGE_HOST: Final = Setting(
    name="bridge_host",
    kind=Text(metavar="HOST"),
    readers={_BRIDGE: "--host"},
    help="Address on which the bridge listens.",
    default="0.0.0.0",  # noqa: S104 - its purpose
)
BRIDGE_PORT: Final = Setting(
    name="bridge_port",
    kind=_ANY_PORT,
    readers={_BRIDGE: "--port"},
    help="Port on which the bridge listens.",
    default="443",
)
HEALTH_HOST: Final = Setting(
    name="health_host",
    kind=Text(metavar="HOST"),
    readers={_BRIDGE: "--health-host"},
    help="Address of the bridge's /healthz.",
    default="127.0.0.1",
)
HEALTH_PORT: Final = Setting(
    name="health_port",
    kind=_ANY_PORT,
    readers={_BRIDGE: "--health-port"},
    help="Port of the bridge's /healthz.",
    default="8766",
)
LEDGER_URL: Final = Setting(
    name="ledger_url",
    kind=Text(metavar="URL"),
    readers={_BRIDGE: "--ledger-url"},
    help="SQLAlchemy URL of the bridge's ledger, in which every accepted job is kept.",
    default="sqlite:///{AIRFLOW_HOME}/edge-mqtt/ledger.db",
    example="postgresql+psycopg://edge@db.example.com/edge",
    sensitive=True,
)
LEDGER_RETENTION: Final = Setting(
    name="ledger_retention",
    kind=_DURATION,
    readers={_BRIDGE: "--ledger-retention"},
    help="Seconds that a finished job stays in the ledger.",
    default="604800",
)
OFFLINE_GRACE: Final = Setting(
    name="offline_grace",
    kind=_GRACE,
    readers={_BRIDGE: "--offline-grace"},
    help="Seconds that a running task survives while its worker is out of the bridge's reach.",
    more="Then the worker stops it and Airflow decides about a retry.",
    default="900",
)
QUEUE_OFFLINE_GRACE: Final = Setting(
    name="queue_offline_grace",
    kind=NumberByName(number=_GRACE, what="queue"),
    readers={_BRIDGE: "--queue-offline-grace"},
    help="The offline_grace of some queues.",
    more="It is decided when a task is handed to the bridge: a later change counts for later tasks.",
    default="",
    example="ship=7200, press=60",
)
QUEUES_KEEPING_LOGS: Final = Setting(
    name="queues_keeping_logs",
    kind=Names(),
    readers={_BRIDGE: "--queues-keeping-logs"},
    help="Queues whose task logs stay on the worker instead of being sent to Airflow.",
    default="",
    example="cameras, lab",
)
KILL_GRACE: Final = Setting(
    name="kill_grace",
    kind=_DURATION,
    readers={_BRIDGE: "--kill-grace"},
    help="Seconds between SIGTERM and SIGKILL when a task is stopped.",
    default="10",
)
PRESENCE_INTERVAL: Final = Setting(
    name="presence_interval",
    kind=_INTERVAL,
    readers={_BRIDGE: "--presence-interval"},
    help="Seconds between a worker's signs of life while it has jobs; each renews the lease of its jobs.",
    default="20",
)
HEARTBEAT_INTERVAL: Final = Setting(
    name="heartbeat_interval",
    kind=_INTERVAL,
    readers={_BRIDGE: "--heartbeat-interval"},
    help="Seconds between the heartbeats that the bridge sends to Airflow for tasks running on the edge.",
    default="4",
)

# ---------------------------------------------------------------- the executor

EXECUTOR_CERTS: Final = Setting(
    name="executor_certs",
    kind=Folder(),
    readers={_EXECUTOR: None},
    help="Folder with the executor's ca.crt, tls.crt and tls.key, made by `edge-certs issue executor NAME`.",
    more="Every scheduler needs a certificate of its own, and so does every team's executor.",
    example="/etc/edge-mqtt/executor",
)
CALLBACK_QUEUE: Final = Setting(
    name="callback_queue",
    kind=Text(),
    readers={_EXECUTOR: None},
    help="Queue of callbacks (deadlines) whose own data name none.",
    more="When it is not set they go to the queue of most of their run's tasks.",
    default="",
    example="ops",
)

# ---------------------------------------------------------------- the worker

WORKER_CERTS: Final = Setting(
    name="worker_certs",
    kind=Folder(),
    readers={_WORKER: "--certs"},
    help="Folder with the worker's ca.crt, tls.crt and tls.key, made by `edge-certs issue worker NAME`.",
    example="/etc/edge-mqtt/worker",
)
WORKER_QUEUES: Final = Setting(
    name="worker_queues",
    kind=Names(least=1),
    readers={_WORKER: "--queues"},
    help="Queues that the worker serves.",
    default="default",
    example="default,press",
)
WORKER_CONCURRENCY: Final = Setting(
    name="worker_concurrency",
    kind=WholeNumber(least=1, most=1_000_000),
    readers={_WORKER: "--concurrency"},
    help="Slots of the worker; a task takes as many as its pool_slots.",
    default="8",
)
WORKER_STATE_DIR: Final = Setting(
    name="worker_state_dir",
    kind=Folder(),
    readers={_WORKER: "--state-dir"},
    help="Folder for what the worker must remember over a restart: its spool and its sockets.",
    more="Keep the path short, a socket's path may have at most 107 bytes.",
    default="{AIRFLOW_HOME}/edge-mqtt/worker",
)
DRAIN_TIMEOUT: Final = Setting(
    name="drain_timeout",
    kind=_DURATION,
    readers={_WORKER: "--drain-timeout"},
    help="Seconds that a worker which was told to stop waits for its running tasks; 0 waits for ever.",
    default="0",
)

PRELOAD_IMPORTS: Final = Setting(
    name="preload_imports",
    kind=Names(),
    readers={_WORKER: None},
    help="Modules that the worker imports once, at its start, for all its tasks.",
    default="",
    example="pandas, requests",
)

# ---------------------------------------------------------------- an operator

OPERATOR_CERTS: Final = Setting(
    name="operator_certs",
    kind=Folder(),
    readers={_OPERATOR: "--certs"},
    help="Folder with an operator's ca.crt, tls.crt and tls.key, made by `edge-certs issue operator NAME`.",
    example="/etc/edge-mqtt/operator",
)

# ---------------------------------------------------------------- of several programs

TOPIC_PREFIX: Final = Setting(
    name="topic_prefix",
    kind=Text(pattern=r"[^/+#$]+", allowed="one level of a topic, without / + # $", metavar="WORD"),
    readers={_BRIDGE: "--topic-prefix", _EXECUTOR: None, _WORKER: None, _OPERATOR: "--topic-prefix"},
    help="The first level of every MQTT topic, so that several Airflows can share a broker. The same everywhere.",
    default="edge",
)
KEEP_ALIVE: Final = Setting(
    name="keep_alive",
    # The most that MQTT can say [MQTT-3.1.2-24].
    kind=WholeNumber(least=1, most=65535, unit="seconds"),
    readers={_EXECUTOR: None, _WORKER: None},
    help="Seconds between MQTT keep alive pings.",
    more="A dead connection is noticed within one and a half times this. Proxies and balancers that end idle "
    "connections do so after 50 or 60 s as a rule: keep it well below that.",
    default="25",
)
MAX_MESSAGE_SIZE: Final = Setting(
    name="max_message_size",
    # What a task asks and is told without any data of its own must fit; the most is the protocol's.
    kind=WholeNumber(least=1024 * 1024, most=64 * 1024 * 1024, unit="bytes"),
    readers={_BRIDGE: "--max-message-size", _EXECUTOR: None, _WORKER: None},
    help="Bytes of one XCom, of another call of a task, of the answer to one, or of a workload at most.",
    more="A larger one is refused with an error that says so.",
    default="67108864",
)

LOG_FORMAT: Final = Setting(
    name="log_format",
    kind=Choice(words=(TEXT, JSON)),
    readers={_BRIDGE: "--log-format", _WORKER: "--log-format"},
    help="How the program writes its own log lines: for people, or one JSON object a line.",
    default=TEXT,
)

#: All of them, in the order of the documentation.
SETTINGS: Final = settings_in(globals())


def settings_of(reader: Reader) -> tuple[Setting[Any], ...]:
    """Return what ``reader`` goes by, Airflow's own settings last."""
    every = (*SETTINGS, *settings_in(vars(airflow_settings)))
    return tuple(setting for setting in every if reader in setting.readers)
