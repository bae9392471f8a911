"""What no worker takes, under a real scheduler: Airflow wants it no more, or it has waited for too long."""

from __future__ import annotations

import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deploy.quickstart.airflow_rest import run_path
from deploy.quickstart.services import SCHEDULER
from deploy.quickstart.stack import Stack, WorkerSpec
from tests.support.stacks import QUICK, running_stack

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

DAGS = Path(__file__).parent / "dags_waiting"
#: Seconds that a callback may wait for a worker.
TIMEOUT_S = 15


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    scheduler = {**QUICK["scheduler"], "task_queued_timeout": str(TIMEOUT_S)}
    with running_stack(dags=DAGS, workers=[WorkerSpec(name="edge-1")], config={"scheduler": scheduler}) as started:
        for dag in ("e2e_waiting", "e2e_late", "e2e_empty_queue"):
            started.wait_for_dag(dag)
        yield started


def rows(database: Path, query: str, *values: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)) as connection:
        return connection.execute(query, values).fetchall()


def job_states(stack: Stack, run_id: str) -> list[str]:
    """Return the states of a run's jobs at the bridge."""
    ledger = stack.central_home / "edge-mqtt" / "ledger.db"
    return [state for (state,) in rows(ledger, "select state from jobs where run_id = ?", run_id)]


def waiting_run(stack: Stack) -> str:
    """Return a run whose job waits at the bridge."""
    run_id = stack.trigger("e2e_waiting")
    stack.wait_until(lambda: job_states(stack, run_id) == ["queued"], "the job to wait at the bridge")
    return run_id


def test_the_job_of_a_task_that_is_marked_failed_waits_no_more(stack: Stack) -> None:
    run_id = waiting_run(stack)
    task = f"{run_path('e2e_waiting', run_id)}/taskInstances/wait"
    stack.rest("PATCH", task, {"new_state": "failed"})
    stack.wait_until(lambda: job_states(stack, run_id) == ["finished"], "the bridge to let go of the job")
    assert "Airflow waits no more for job" in stack.log_of(SCHEDULER)
    assert stack.services[SCHEDULER].alive


def test_the_job_of_a_run_that_is_deleted_while_the_scheduler_is_away_waits_no_more(stack: Stack) -> None:
    run_id = waiting_run(stack)
    stack.kill(SCHEDULER, signal.SIGKILL)
    stack.services[SCHEDULER].wait(10.0)
    stack.rest("PATCH", run_path("e2e_waiting", run_id), {"state": "failed"})
    stack.rest("DELETE", run_path("e2e_waiting", run_id))
    stack.restart(SCHEDULER)
    stack.wait_until(lambda: job_states(stack, run_id) == ["finished"], "the bridge to let go of the job")


def test_a_callback_that_no_worker_takes_fails_and_says_why(stack: Stack) -> None:
    stack.trigger("e2e_late")
    database = stack.central_home / "airflow.db"
    query = "select state, output from callback where data like '%too_late%'"
    stack.wait_until(
        lambda: rows(database, query)[:1] != [] and rows(database, query)[0][0] == "failed", "its failure"
    )
    ((_, output),) = rows(database, query)
    assert output.startswith(
        f"no worker took the callback from queue 'nowhere' within {TIMEOUT_S} s ([scheduler] task_queued_timeout)"
    )
    assert output in stack.log_of(SCHEDULER)


def test_an_empty_queue_is_the_default_queue(stack: Stack) -> None:
    pid = stack.services[SCHEDULER].pid
    assert stack.wait_run("e2e_empty_queue", stack.trigger("e2e_empty_queue")) == "success"
    assert (stack.services[SCHEDULER].pid, stack.services[SCHEDULER].alive) == (pid, True)
