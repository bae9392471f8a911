"""The executor's settings, read from Airflow's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_mqtt.broker_bridge.protocol.errors import InvalidTopic
from edge_mqtt.broker_bridge.protocol.limits import MAX_MESSAGE_BYTES
from edge_mqtt.broker_bridge.protocol.topics import DEFAULT_PREFIX, check_prefix
from edge_mqtt.broker_bridge.transport.endpoint import InvalidUrl, parse_url
from edge_mqtt.executor.errors import SettingsError

SECTION = "edge_mqtt"
#: Seconds between MQTT keep alive pings when nothing is set.
DEFAULT_KEEP_ALIVE_S = 60
#: The most that MQTT can say, in seconds [MQTT-3.1.2-24].
MOST_KEEP_ALIVE_S = 65535
#: The least that ``max_message_size`` may be, in bytes.
LEAST_MESSAGE_BYTES = 1024 * 1024
#: Airflow's own default of ``[scheduler] orphaned_tasks_check_interval``, in seconds.
_ORPHAN_CHECK_S = 300.0
#: Airflow's own default of ``[scheduler] scheduler_health_check_threshold``, in seconds.
_SCHEDULER_DEAD_AFTER_S = 30.0


class Configuration(Protocol):
    """What is asked of Airflow's configuration; an executor of a team sees its team's values."""

    def get(self, section: str, key: str, *, fallback: str) -> str | None:
        """Return an option's value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutorSettings:
    """What the executor needs to know."""

    #: Where the bridge listens: ``wss://host:443/mqtt``.
    bridge_url: str
    #: The folder with ``ca.crt``, ``tls.crt`` and ``tls.key``.
    certs: Path
    #: The first level of every topic.
    topic_prefix: str
    #: Seconds between MQTT keep alive pings.
    keep_alive_s: int
    #: Bytes of a workload at most; a larger one fails.
    max_message_bytes: int
    #: The queue of workloads that name none (callbacks).
    default_queue: str
    #: Seconds for which the final event of a job that nobody here knows is kept for an adoption.
    unclaimed_for_s: float


def read_settings(conf: Configuration) -> ExecutorSettings:
    """Read and check the settings.

    :raises SettingsError: an option is missing or wrong; one line that names it and says what to do.
    """
    return ExecutorSettings(
        bridge_url=_bridge_url(conf),
        certs=Path(_mandatory(conf, "executor_certs", "the folder that `edge-certs issue executor NAME` made")),
        topic_prefix=_topic_prefix(conf),
        keep_alive_s=_keep_alive_s(conf),
        max_message_bytes=_max_message_bytes(conf),
        default_queue=conf.get("operators", "default_queue", fallback="default") or "default",
        unclaimed_for_s=_adoption_window_s(conf),
    )


def _bridge_url(conf: Configuration) -> str:
    url = _mandatory(conf, "bridge_url", "the bridge's address, such as wss://bridge.example.com:443/mqtt")
    try:
        parse_url(url)
    except InvalidUrl as error:
        raise SettingsError(f"[{SECTION}] bridge_url {error}") from None
    return url


def _topic_prefix(conf: Configuration) -> str:
    try:
        return check_prefix(conf.get(SECTION, "topic_prefix", fallback=DEFAULT_PREFIX) or DEFAULT_PREFIX)
    except InvalidTopic as error:
        raise SettingsError(f"[{SECTION}] {error}") from error


def _mandatory(conf: Configuration, key: str, what: str) -> str:
    value = conf.get(SECTION, key, fallback="")
    if not value:
        variable = f"AIRFLOW__{SECTION.upper()}__{key.upper()}"
        raise SettingsError(f"[{SECTION}] {key} is not set: set it (or {variable}) to {what}")
    return value


def _keep_alive_s(conf: Configuration) -> int:
    value, text = _whole_number(conf, "keep_alive", DEFAULT_KEEP_ALIVE_S)
    if not 1 <= value <= MOST_KEEP_ALIVE_S:
        raise SettingsError(
            f"[{SECTION}] keep_alive is {text!r}: it must be a whole number of seconds from 1 to {MOST_KEEP_ALIVE_S}"
        )
    return value


def _max_message_bytes(conf: Configuration) -> int:
    value, text = _whole_number(conf, "max_message_size", MAX_MESSAGE_BYTES)
    if not LEAST_MESSAGE_BYTES <= value <= MAX_MESSAGE_BYTES:
        raise SettingsError(
            f"[{SECTION}] max_message_size is {text!r}: it must be between {LEAST_MESSAGE_BYTES} and "
            f"{MAX_MESSAGE_BYTES} bytes"
        )
    return value


def _whole_number(conf: Configuration, key: str, default: int) -> tuple[int, str]:
    """Return an option's value, 0 when it is none, and its text."""
    text = conf.get(SECTION, key, fallback="") or str(default)
    try:
        return int(text), text
    except ValueError:
        return 0, text


def _adoption_window_s(conf: Configuration) -> float:
    """Return how long after a scheduler's death another one may still adopt its tasks: two checks, to be sure."""
    check = conf.get("scheduler", "orphaned_tasks_check_interval", fallback=str(_ORPHAN_CHECK_S))
    dead_after = conf.get("scheduler", "scheduler_health_check_threshold", fallback=str(_SCHEDULER_DEAD_AFTER_S))
    return 2 * float(check or _ORPHAN_CHECK_S) + float(dead_after or _SCHEDULER_DEAD_AFTER_S)
