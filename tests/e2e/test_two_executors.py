"""Two of Airflow's executors side by side: tasks choose theirs, or their team does."""

from __future__ import annotations

import configparser
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.quickstart.services import API_SERVER, DAG_PROCESSOR, SCHEDULER, SCRIPTS, TRIGGERER
from deploy.quickstart.stack import EDGE_EXECUTOR, Stack, WorkerSpec

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(300)]

DAGS = Path(__file__).parent / "dags_two_executors"
TEAM = "team_a"
TEAM_DAGS = Path(__file__).parent / "dags_teams"
BUNDLE = "airflow.dag_processing.bundles.local.LocalDagBundle"


def test_tasks_run_where_their_executor_says(make_stack: Callable[..., Stack]) -> None:
    stack = make_stack(dags=DAGS, executor=f"LocalExecutor,{EDGE_EXECUTOR}", workers=[WorkerSpec(name="edge-1")])
    stack.wait_for_dag("e2e_executors")
    run_id = stack.trigger("e2e_executors")
    assert stack.wait_run("e2e_executors", run_id) == "success"
    entries = f"/dags/e2e_executors/dagRuns/{run_id}/taskInstances/{{}}/xcomEntries/return_value"
    homes = {task: stack.rest("GET", entries.format(task))["value"] for task in ("at_the_centre", "on_the_edge")}
    assert homes == {
        "at_the_centre": str(stack.central_home),
        "on_the_edge": str(stack.worker_home("edge-1")),
    }
    stack.stop()
    assert stack.left_over() == []


def reconfigure(stack: Stack, sections: Mapping[str, Mapping[str, str]]) -> None:
    """Change the centre's airflow.cfg."""
    path = stack.central_home / "airflow.cfg"
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(path)
    for section, options in sections.items():
        parser.read_dict({section: options})
    with path.open("w") as stream:
        parser.write(stream)


def last_words(stack: Stack, said: str) -> None:
    """Start the scheduler and see that it ends with one line that says so."""
    scheduler = stack.services[SCHEDULER]
    stack.restart(SCHEDULER, wait=False)
    stack.wait_until(lambda: not scheduler.alive, "the scheduler to end")
    assert scheduler.exit_code != 0
    assert said in scheduler.output_since_start().strip().splitlines()[-1]


@contextmanager
def team_triggerer(stack: Stack) -> Iterator[None]:
    """Run the team's own triggerer: Airflow's other one leaves its tasks alone."""
    command = [str(SCRIPTS / "airflow"), "triggerer", "--skip-serve-logs", "--team-name", TEAM]
    environment = stack.environment(stack.central_home)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.terminate()


def test_a_team_is_told_what_it_lacks_and_its_deferred_and_retried_tasks_run(
    make_stack: Callable[..., Stack],
) -> None:
    stack = make_stack(dags=TEAM_DAGS, executor=f"LocalExecutor,{EDGE_EXECUTOR}", workers=[WorkerSpec(name="edge-1")])
    environment = stack.environment(stack.central_home)
    subprocess.run([SCRIPTS / "airflow", "teams", "create", TEAM], env=environment, check=True, capture_output=True)
    bundle = {"name": "dags-folder", "classpath": BUNDLE, "kwargs": {}, "team_name": TEAM}
    teams = f"{EDGE_EXECUTOR};{TEAM}={EDGE_EXECUTOR}"
    reconfigure(
        stack,
        {
            "core": {"multi_team": "True", "executor": teams},
            "dag_processor": {"dag_bundle_config_list": json.dumps([bundle])},
        },
    )
    last_words(stack, f"or as AIRFLOW__{TEAM.upper()}___EDGE_MQTT__BRIDGE_URL.")
    certs = stack.central_home / "certs" / "executor"
    reconfigure(stack, {f"{TEAM}=edge_mqtt": {"bridge_url": stack.bridge_url, "executor_certs": str(certs)}})
    last_words(stack, f"and set AIRFLOW__{TEAM.upper()}___EDGE_MQTT__EXECUTOR_CERTS to its folder")
    # Beside an executor that has Airflow assign no ids.
    reconfigure(stack, {"core": {"executor": f"LocalExecutor;{TEAM}={EDGE_EXECUTOR}"}})
    for service in (API_SERVER, DAG_PROCESSOR, TRIGGERER, SCHEDULER):
        stack.restart(service)
    with team_triggerer(stack):
        stack.wait_for_dag("e2e_team")
        run_id = stack.trigger("e2e_team")
        assert stack.wait_run("e2e_team", run_id, timeout_s=90) == "success"
        entries = f"/dags/e2e_team/dagRuns/{run_id}/taskInstances/{{}}/xcomEntries/return_value"
        homes = {task: stack.rest("GET", entries.format(task))["value"] for task in ("defers", "fails_once")}
        assert homes == dict.fromkeys(homes, str(stack.worker_home("edge-1")))
