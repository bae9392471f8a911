"""The caches of supervisors and tasks, filled before the fork: what a first step builds for every further one.

Python answers many a question slowly once and quickly ever after: whether a class is a Mapping, what an annotation
means, what a regular expression compiles to. Asked in each supervisor and each task, the slow answer costs CPU and
touches objects all over the memory, of which each touched page becomes a copy of the process's own.
"""

from __future__ import annotations

import logging
import uuid
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import httpx

log = logging.getLogger(__name__)

_NOW: Final = datetime(2000, 1, 1, tzinfo=UTC)
#: What the bridge answers to a task that starts (``TIRunContext`` in airflow.sdk api/datamodels).
_RUN_CONTEXT: Final[dict[str, Any]] = {
    "dag_run": {
        "dag_id": "warm_up",
        "run_id": "warm_up",
        "run_type": "manual",
        "state": "running",
        "conf": {},
        "logical_date": None,
        "run_after": _NOW.isoformat(),
        "start_date": _NOW.isoformat(),
        "data_interval_start": None,
        "data_interval_end": None,
        "end_date": None,
        "consumed_asset_events": [],
        "partition_key": None,
    },
    "max_tries": 0,
    "variables": [],
    "connections": [],
    "should_retry": False,
}


def warm_up_caches() -> None:
    """Go through the calls of a supervisor and the making of a Dag. Nothing is sent, and nothing stays but caches."""
    for step in (_make_calls, _build_frame_decoders, _make_dag, _make_log_lines):
        try:
            step()
        except Exception as error:  # noqa: BLE001 -- this Airflow works otherwise: the real tasks do without
            log.warning(
                "a step of the warm-up failed: %s",
                error,
                extra={"action": "warm_up_failed", "step": step.__name__},
            )


def _make_calls() -> None:
    from edge_mqtt.worker.supervisor.airflow_internals import WorkerClient

    with WorkerClient(httpx.MockTransport(_answer), "") as client:
        task_instance = uuid.uuid4()
        client.task_instances.start(task_instance, 1, _NOW)
        client.task_instances.heartbeat(task_instance, 1)
        client.task_instances.succeed(task_instance, _NOW, [], [], None)


def _answer(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(HTTPStatus.OK, json=_RUN_CONTEXT)


def _build_frame_decoders() -> None:
    """Build what task and supervisor read each other's frames with: msgspec keeps it with the class."""
    import msgspec

    from edge_mqtt.worker.supervisor.airflow_internals import FRAMES

    for kind in FRAMES:
        msgspec.msgpack.Decoder(kind)


def _make_dag() -> None:
    from airflow.sdk import DAG, task

    with DAG("warm_up") as dag:

        @task
        def nothing() -> None:
            """Never run."""

        nothing()
    dag.get_task("nothing").get_template_env()


def _make_log_lines() -> None:
    """Let logging find out what is no Mapping, which it asks of a line's first argument."""
    for argument in ("", 0, 0.0):
        logging.LogRecord(__name__, logging.DEBUG, __file__, 0, "%s", (argument,), None)
