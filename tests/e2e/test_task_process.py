"""A task's process on the edge is what it is with Airflow's LocalExecutor: both look at themselves, in one system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from deploy.quickstart.stack import EDGE_EXECUTOR, Stack, WorkerSpec
from edge_mqtt.worker.launcher.environment import DEFAULTS, FIXED

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

DAGS: Final = Path(__file__).parent / "dags_two_executors"
DAG_ID: Final = "e2e_task_process"

Facts = dict[str, Any]

#: What is another, as docs/worker.md says.
OOM_PREFERENCE: Final = 500
#: What the scheduler's command line has done to itself, and its tasks inherit.
OF_THE_SCHEDULER: Final = {"_AIRFLOW_PROCESS_CONTEXT"}
#: What says which task it is.
OF_THE_TASK: Final = {"AIRFLOW_CTX_TASK_ID", "_AIRFLOW_PARSING_CONTEXT_TASK_ID"}


def test_a_task_s_process_is_the_same_as_with_the_local_executor(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(dags=DAGS, executor=f"LocalExecutor,{EDGE_EXECUTOR}", workers=[WorkerSpec(name="edge-1")])
    stack.wait_for_dag(DAG_ID)
    run_id = stack.trigger(DAG_ID)
    # That it succeeds says that alarms, Airflow's own handlers and log settings work in a task's forks.
    assert stack.wait_run(DAG_ID, run_id) == "success"
    entries = f"/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{{}}/xcomEntries/return_value"
    plain, ours = (stack.rest("GET", entries.format(task))["value"] for task in ("at_the_centre", "on_the_edge"))
    assert set(plain) == {"task", "os.fork", "fork", "forkserver", "spawn", "subprocess"}
    set_by_us = {option.variable for option in (*DEFAULTS, *FIXED)}
    for way in plain:
        check(way, comparable(plain[way], set_by_us), comparable(ours[way], set_by_us))
    stack.stop()
    assert stack.left_over() == []


def comparable(facts: Facts, set_by_us: set[str]) -> Facts:
    """Return facts without what tells two homes, two tasks and two command lines apart."""
    home = facts["environment"]["AIRFLOW_HOME"]
    left_out = OF_THE_SCHEDULER | OF_THE_TASK | set_by_us
    facts["environment"] = {
        name: value.replace(home, "HOME") for name, value in facts["environment"].items() if name not in left_out
    }
    facts["folder"] = facts["folder"].replace(home, "HOME")
    facts["path"] = [path.replace(home, "HOME") for path in facts["path"]]
    # Whoever runs `airflow scheduler` has its stack printed by it.
    facts["handlers"].pop("SIGQUIT")
    del facts["status"]["SigCgt"]
    return facts


def check(way: str, plain: Facts, ours: Facts) -> None:
    """Compare what has been found of one way to make a process."""
    assert ours.pop("ours") == [], f"{way}: names of others stand for something of ours"
    plain.pop("ours")
    assert ours.pop("oom score") == min(1000, plain.pop("oom score") + OOM_PREFERENCE), way
    # The folder of the program that was started: the scheduler's `airflow`, of which ours lets go.
    assert [path for path in plain.pop("path") if not path.endswith("/bin")] == ours.pop("path"), way
    files, theirs = ours.pop("files"), plain.pop("files")
    more = {kind for kind, count in files.items() if count > theirs.get(kind, 0)}
    assert not more, f"{way}: {more} are open"
    assert ours == plain, way
