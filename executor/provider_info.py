"""What Airflow's providers manager asks about this distribution: the executor and the ``[edge_mqtt]`` options.

``airflow config list`` and the configuration reference show these; the defaults here are the ones that count for
everything that reads Airflow's configuration. Schema: ``airflow/provider_info.schema.json``.
"""

from __future__ import annotations

from typing import Any

PACKAGE_NAME = "airflow-edge-mqtt"
#: The version of this distribution that brought the first options.
_FIRST = "0.1.0"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's description; called through the ``apache_airflow_provider`` entry point."""
    return {
        "package-name": PACKAGE_NAME,
        "name": "Edge MQTT",
        "description": "Runs tasks on machines behind firewalls, over one outbound MQTT-over-WebSockets connection.",
        "cli": ["edge_mqtt.executor.cli.get_commands"],
        "executors": ["edge_mqtt.executor.EdgeMqttExecutor"],
        "config": {
            "edge_mqtt": {
                "description": (
                    "The edge executor, the bridge and the edge workers. Times are in seconds. Each part reads "
                    "only its own options; those of a part that does not run on this machine need not be set."
                ),
                "options": {**_common(), **_bridge(), **_executor(), **_worker(), **_operator()},
            }
        },
    }


def _option(kind: str, description: str, *, default: str | None = None, example: str | None = None) -> dict[str, Any]:
    return {
        "description": description,
        "version_added": _FIRST,
        "type": kind,
        "example": example,
        "default": default,
    }


def _common() -> dict[str, dict[str, Any]]:
    return {
        "bridge_url": _option(
            "string",
            "Where the bridge is, for those that connect to it: executors, workers and edge-logs.",
            example="wss://bridge.example.com:443/mqtt",
        ),
        "topic_prefix": _option(
            "string",
            "The first level of every MQTT topic, so that several Airflows can share a broker. The same everywhere.",
            default="edge",
        ),
        "keep_alive": _option(
            "integer",
            "Seconds between MQTT keep alive pings, a whole number from 1 to 65535: a dead connection is noticed "
            "within one and a half times this.",
            default="60",
        ),
        "offline_grace": _option(
            "float",
            "Seconds that a running task survives while its worker is out of the bridge's reach. Then the worker "
            "stops it and Airflow decides about a retry.",
            default="900",
        ),
        "queue_offline_grace": _option(
            "string",
            "The offline_grace of some queues, as queue=seconds, separated by commas. It is decided when a task "
            "is handed to the bridge: a later change counts for later tasks.",
            example="ship=7200, press=60",
        ),
        "kill_grace": _option("float", "Seconds between SIGTERM and SIGKILL when a task is stopped.", default="10"),
        "max_message_size": _option(
            "integer",
            "Bytes of one XCom, of another call of a task, of the answer to one, or of a workload at most: from "
            "1 MiB to 64 MiB, the default. A larger one is refused with an error that says so.",
            default="67108864",
        ),
    }


def _bridge() -> dict[str, dict[str, Any]]:
    return {
        "bridge_host": _option("string", "Address on which the bridge listens.", default="0.0.0.0"),  # noqa: S104 - its purpose
        "bridge_port": _option("integer", "Port on which the bridge listens.", default="443"),
        "bridge_certs": _option(
            "string",
            "Folder with the bridge's ca.crt, tls.crt and tls.key, made by `edge-certs init`.",
            example="/etc/edge-mqtt/bridge",
        ),
        "health_host": _option("string", "Address of the bridge's /healthz.", default="127.0.0.1"),
        "health_port": _option("integer", "Port of the bridge's /healthz.", default="8766"),
        "ledger_url": _option(
            "string",
            "SQLAlchemy URL of the bridge's ledger, in which every accepted job is kept.",
            default="sqlite:///{AIRFLOW_HOME}/edge-mqtt/ledger.db",
            example="postgresql+psycopg://edge@db.example.com/edge",
        ),
        "ledger_retention": _option("integer", "Seconds that a finished job stays in the ledger.", default="604800"),
        "queues_keeping_logs": _option(
            "string",
            "Queues, separated by commas, whose task logs stay on the worker instead of being sent to Airflow.",
            example="cameras, lab",
        ),
        "heartbeat_interval": _option(
            "float",
            "Seconds between the heartbeats that the bridge sends to Airflow for tasks running on the edge.",
            default="4",
        ),
        "presence_interval": _option(
            "float",
            "Seconds between a worker's signs of life while it has jobs; each renews the lease of its jobs.",
            default="20",
        ),
    }


def _executor() -> dict[str, dict[str, Any]]:
    return {
        "executor_certs": _option(
            "string",
            "Folder with the executor's ca.crt, tls.crt and tls.key, made by `edge-certs issue executor NAME`. Every "
            "scheduler needs a certificate of its own.",
            example="/etc/edge-mqtt/executor",
        ),
    }


def _worker() -> dict[str, dict[str, Any]]:
    return {
        "worker_certs": _option(
            "string",
            "Folder with the worker's ca.crt, tls.crt and tls.key, made by `edge-certs issue worker NAME`.",
            example="/etc/edge-mqtt/worker",
        ),
        "worker_queues": _option(
            "string",
            "Queues that the worker serves, separated by commas.",
            default="default",
            example="default,press",
        ),
        "worker_concurrency": _option(
            "integer", "Slots of the worker; a task takes as many as its pool_slots.", default="8"
        ),
        "worker_state_dir": _option(
            "string",
            "Folder for what the worker must remember over a restart: its spool and its sockets. Keep the path "
            "short, a socket's path may have at most 107 bytes.",
            default="{AIRFLOW_HOME}/edge-mqtt/worker",
        ),
        "drain_timeout": _option(
            "float",
            "Seconds that a worker which was told to stop waits for its running tasks; 0 waits for ever.",
            default="0",
        ),
        "preload_imports": _option(
            "string",
            "Modules, separated by commas, that the worker imports once, at its start, for all its tasks.",
            example="pandas, requests",
        ),
    }


def _operator() -> dict[str, dict[str, Any]]:
    return {
        "operator_certs": _option(
            "string",
            "Folder with an operator's ca.crt, tls.crt and tls.key for edge-logs, made by `edge-certs issue operator "
            "NAME`.",
            example="/etc/edge-mqtt/operator",
        ),
    }
