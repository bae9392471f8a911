"""Lines of the bridge's own in a task's log, in the form that Airflow gives its lines."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Final, Literal

from edge_mqtt.broker_bridge.dispatch.core.model import Job
from edge_mqtt.broker_bridge.logs.segments import Gap, describe_gap

LOGGER: Final = "edge_mqtt.bridge"


def format_line(text: str, now: datetime, level: Literal["info", "warning", "error"] = "warning") -> bytes:
    """Return a line as Airflow's JSON formatter writes it (``airflow.sdk.log``).

    :param now: aware.
    """
    stamp = now.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return json.dumps({"timestamp": stamp, "level": level, "event": text, "logger": LOGGER}).encode() + b"\n"


def gap_notice(gaps: Iterable[Gap], now: datetime) -> bytes:
    """Return a line for everything that the log before it lacks."""
    return b"".join(format_line(describe_gap(gap, "the log before this line"), now) for gap in gaps)


def kept_notice(job: Job, now: datetime) -> bytes:
    """Return the line that stands in the central file for a log which stays on its worker."""
    text = (
        f"the log stays on worker {job.worker}, in {job.spec.log_path} below its base_log_folder: "
        f"queue {job.spec.queue!r} keeps its logs on the worker"
    )
    return format_line(text, now, "info")


def unstarted_notice(job: Job, now: datetime) -> bytes:
    """Return the line that stands for the log of a job that failed before it began."""
    return format_line(f"the task was not started: {job.detail}", now, "error")


def loss_notice(now: datetime) -> bytes:
    """Return a line for a file that others have cut, moved away or replaced, or that a crash left unfinished."""
    text = "the file of this log was cut, moved or replaced, or not all of it was written: something is missing here"
    return format_line(text, now)
