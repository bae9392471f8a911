"""Workers whose clocks are two minutes ahead and behind: retries and reschedules come when they are due."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from deploy.quickstart.process import stop_services
from deploy.quickstart.services import WORKER_PREFIX
from deploy.quickstart.stack import Stack, WorkerSpec

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(400)]

DAG = "e2e_clock"
#: As in the Dag: seconds until a task is tried, or poked, again.
RETRY_DELAY_S = 8
#: Seconds that the clocks are off.
OFF_S = {"ahead": 120, "behind": -120}
#: Seconds for a scheduler and a start on a busy machine; less than the clocks are off.
SLACK_S = 60.0


def shifted(seconds: int) -> dict[str, str]:
    """Return an environment in which programs see another time of day (Debian: faketime), and the same since boot."""
    libraries = list(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert libraries, "install faketime (Debian's package of that name)"
    return {
        "LD_PRELOAD": str(libraries[0]),
        "FAKETIME": f"{seconds:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


@pytest.fixture
def workers(stack: Stack) -> Iterator[dict[str, str]]:
    """One worker for each clock, by queue; they end with the test."""
    names = {}
    for queue, seconds in OFF_S.items():
        spec = WorkerSpec(name=f"edge-{queue}", queues=(queue,), concurrency=4, environment=shifted(seconds))
        stack.add_worker(spec)
        names[queue] = WORKER_PREFIX + spec.name
    yield names
    stop_services(stack.services.pop(name) for name in names.values())
    del stack.workers[-len(names) :]


def moment(value: Any) -> datetime:
    return datetime.fromisoformat(value).astimezone(UTC)


def test_retries_and_reschedules_go_by_the_centre_s_clock(stack: Stack, workers: dict[str, str]) -> None:
    began = datetime.now(UTC)
    run_id = stack.trigger(DAG)
    assert stack.wait_run(DAG, run_id, timeout_s=300) == "success"
    ended = datetime.now(UTC)
    for queue, name in workers.items():
        path = f"/dags/{DAG}/dagRuns/{run_id}/taskInstances"
        first, second = stack.rest("GET", f"{path}/retried_{queue}/tries")["task_instances"]
        waited_s = (moment(second["start_date"]) - moment(first["end_date"])).total_seconds()
        assert RETRY_DELAY_S - 1 <= waited_s <= RETRY_DELAY_S + SLACK_S, (queue, waited_s)
        poked = stack.rest("GET", f"{path}/poked_{queue}")
        took_s = (moment(poked["end_date"]) - moment(first["start_date"])).total_seconds()
        assert RETRY_DELAY_S - 2 <= took_s <= RETRY_DELAY_S + SLACK_S, (queue, took_s)
        for instance in (first, second, poked):
            for date in ("start_date", "end_date"):
                assert began.timestamp() - 2 <= moment(instance[date]).timestamp() <= ended.timestamp() + 2
        off = "ahead of" if queue == "ahead" else "behind"
        said = f"120 s {off} the bridge"
        assert stack.log_of(name).count(said) == 1
        assert stack.log_of("bridge").count(said) == 1
