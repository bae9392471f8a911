"""Tasks that leave evidence of every run of their code: a line in a file on the edge, an XCom, numbered log lines."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, dag, get_current_context, task
from airflow.sdk.exceptions import AirflowFailException

#: The machine's own folder; the site's is the one above, which no real edge machine shares with another.
_HOME = Path(os.environ["AIRFLOW_HOME"])
#: More tries than a run of chaos can spoil of one task.
_ARGUMENTS = {"retries": 100, "retry_delay": timedelta(seconds=1)}
#: Seconds that a held task goes on: it is over when it is stopped, not before.
_HELD_S = 900.0
#: Seconds that a deferred task sleeps in the triggerer.
_NAP_S = 4.0


@contextlib.contextmanager
def begun(stage: str = "") -> Iterator[tuple[dict[str, Any], str]]:
    """Append this try's one line to the file of this machine; give the run's conf and the task's own name.

    The conf is said to be ``first`` in the first try that began; Airflow may have counted others before.
    A lock that dies with the process tells whether another process runs the same task instance at this moment,
    whatever its try and its machine.
    """
    context = get_current_context()
    instance = context["ti"]
    own_name = f"{instance.run_id}/{instance.task_id}/{instance.map_index}"
    with (_HOME.parent / "locks" / own_name.replace("/", "-")).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError:
            alone = False
        conf = dict(context["dag_run"].conf or {}) | {"first": lock.tell() == 0}
        lock.write("begun\n")
        lock.flush()
        line = {
            "run": instance.run_id,
            "task": instance.task_id,
            "map": instance.map_index,
            "try": instance.try_number,
            "stage": stage,
            "pid": os.getpid(),
            "at": time.time(),
            "alone": alone,
        }
        # One write in append mode: lines of tasks that run at the same time are never mixed.
        descriptor = os.open(_HOME / "evidence.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, (json.dumps(line) + "\n").encode())
        finally:
            os.close(descriptor)
        yield conf, f"{own_name}/{stage}"


def work(name: str, seconds: float) -> None:
    """Take ``seconds`` and number the log's lines, five a second."""
    lines = max(1, round(seconds * 5))
    for number in range(lines):
        print(f"line {number} of {lines} by {name}")
        time.sleep(seconds / lines)


def word_of(run_id: str, number: int) -> str:
    """Return what part ``number`` of a run hands on."""
    return hashlib.sha256(f"{run_id}/{number}".encode()).hexdigest()


class Nap(BaseOperator):
    """Works, sleeps in the triggerer, works on in another process and hands on its word."""

    def execute(self, context: Any) -> None:
        """Do the first half."""
        with begun("before") as (_, name):
            work(name, 0.5)
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=_NAP_S)), method_name="resume")

    def resume(self, context: Any, event: object = None) -> str:
        """Do the second half."""
        with begun("after") as (_, name):
            work(name, 1.0)
        return word_of(context["run_id"], -1)


@dag(schedule=None, max_active_runs=8, default_args=_ARGUMENTS)
def chaos_lines() -> None:
    """Plan, ``conf["parts"]`` parts of ``conf["seconds"]`` seconds and a nap side by side, a task that checks all."""

    @task
    def plan() -> list[int]:
        with begun() as (conf, name):
            work(name, 0.5)
            return list(range(conf["parts"]))

    @task
    def part(number: int) -> dict[str, Any]:
        with begun() as (conf, name):
            work(name, conf["seconds"])
            return {"number": number, "word": word_of(get_current_context()["run_id"], number)}

    @task
    def check(parts: list[dict[str, Any]], nap: str) -> int:
        with begun() as (conf, name):
            work(name, 0.5)
        run_id = get_current_context()["run_id"]
        expected = [{"number": number, "word": word_of(run_id, number)} for number in range(conf["parts"])]
        if list(parts) != expected or nap != word_of(run_id, -1):
            # A retry would hide it.
            raise AirflowFailException(f"expected {expected}, pulled {list(parts)}; the nap's word was {nap}")
        return len(expected) + 1

    planned = plan()
    nap = Nap(task_id="nap")
    planned >> nap
    check(part.expand(number=planned), nap.output)


@dag(schedule=None, max_active_runs=8, default_args=_ARGUMENTS | {"queue": "brief"})
def chaos_brief() -> None:
    """One task of ``conf["seconds"]`` seconds in the queue that may be without the centre for a short time only."""

    @task
    def brief() -> None:
        with begun() as (conf, name):
            work(name, conf["seconds"])

    brief()


@dag(schedule=None, max_active_runs=8, default_args=_ARGUMENTS)
def chaos_held() -> None:
    """A task that goes on in its first try until it is stopped, and one that runs however the first has ended."""

    @task
    def hold() -> None:
        with begun() as (conf, name):
            work(name, _HELD_S if conf["first"] else 1.0)

    @task(trigger_rule="all_done")
    def after() -> None:
        with begun() as (_, name):
            work(name, 0.5)

    hold() >> after()


chaos_lines()
chaos_brief()
chaos_held()
