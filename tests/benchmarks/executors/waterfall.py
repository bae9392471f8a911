"""Where the time of one task goes on ours, from Airflow's queue to the end, as logs and database tell it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

from deploy.quickstart.stack import Stack
from tests.benchmarks.executors.systems import System

DAG: Final = "bench_first_line"
#: What happens between two moments; the moments are those of :func:`_moments`, in order.
STAGES: Final = (
    "Airflow's loop hands the task to the executor",
    "executor → bridge, stored in the ledger, assigned",
    "bridge → worker, stored, supervisor forked",
    "supervisor sets up; run call through the bridge to Airflow",
    "task process: first call for the task's data, Dag parsed",
    "user code, XCom, state call to Airflow",
    "supervisor ends; result stored and sent; bridge has it",
)
_STAMP: Final = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)[.,](\d+)(Z?)")


def measure(system: System, tasks: int) -> list[list[float]]:
    """Run tasks one after the other; return the moments of each, in seconds from its queueing."""
    return [_one(system) for _ in range(tasks)]


def logged_at(text: str, pattern: str) -> float:
    """Return the time of the last line that matches, in Unix seconds.

    :raises LookupError: no line does, or it has no time.
    """
    line = next((line for line in reversed(text.splitlines()) if re.search(pattern, line)), None)
    if line is None:
        raise LookupError(f"no line matches {pattern!r}")
    stamp = _STAMP.match(line)
    if stamp is None:
        raise LookupError(f"no time in {line!r}")
    date, clock, fraction, zone = stamp.groups()
    moment = datetime.fromisoformat(f"{date}T{clock}.{fraction:0<6.6}{'+00:00' if zone else ''}")
    return moment.timestamp()


def _one(system: System) -> list[float]:
    stack = system.stack
    run_id = stack.trigger(DAG)
    stack.wait_run(DAG, run_id)
    scheduler = stack.log_of("scheduler")
    (job_id,) = re.findall(rf"job (\S+) submitted .*{re.escape(run_id)}", scheduler)
    finished = f"job finished .*{job_id}"
    stack.wait_until(lambda: re.search(finished, stack.log_of("bridge")) is not None, finished)
    moments = _moments(stack, run_id, job_id)
    return [moment - moments[0] for moment in moments]


def _moments(stack: Stack, run_id: str, job_id: str) -> list[float]:
    (instance,) = stack.task_instances(DAG, run_id)
    first_line = stack.rest("GET", f"/dags/{DAG}/dagRuns/{run_id}/taskInstances/first_line/xcomEntries/return_value")
    bridge = stack.log_of("bridge")
    return [
        datetime.fromisoformat(instance["queued_when"]).timestamp(),
        logged_at(stack.log_of("scheduler"), f"job {job_id} submitted"),
        logged_at(bridge, f"job assigned .*{job_id}"),
        logged_at(stack.log_of("worker-edge-1"), rf"{re.escape(run_id)} .*started"),
        logged_at(bridge, f"job started .*{job_id}"),
        float(first_line["value"]),
        datetime.fromisoformat(instance["end_date"]).timestamp(),
        logged_at(bridge, f"job finished .*{job_id}"),
    ]
