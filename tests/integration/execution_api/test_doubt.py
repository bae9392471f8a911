"""A call that was spoiled on its way to a real api-server comes to what Airflow did, and to nothing else."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import TypeVar

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.api.client import Client, ServerResponseError
from airflow.sdk.execution_time.comms import ErrorResponse, OKResponse, RescheduleTask
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from tests.support.api_server import ApiServer, task_token
from tests.support.fault_proxy import Fault, FaultProxy
from tests.support.scenario_edge_calls import EdgeCalls
from tests.support.scenario_executor import airflow_database, make_run, task_instance
from tests.support.scenario_relay import Held, job

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

T = TypeVar("T")
DAG = "a-dag"
#: What may happen to a call that is made for the first time.
FAULTS = [fault for fault in Fault if not fault.startswith("held")]


class Scene:
    """A task on the edge, and Airflow behind a proxy that spoils calls."""

    def __init__(
        self, ti_id: uuid.UUID, client: Client, straight: Client, proxy: FaultProxy, edge: EdgeCalls
    ) -> None:
        self.ti_id = ti_id
        self.client = client
        self.straight = straight
        self.proxy = proxy
        self.edge = edge

    def while_held(self, fault: Fault, call: Callable[[], T], *actions: Callable[[], object]) -> T:
        """Make a call that the proxy holds, and do something meanwhile; return what the call comes to."""
        self.proxy.faults.append(fault)
        self.proxy.holding.clear()
        self.proxy.release.clear()
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(call)
            assert self.proxy.holding.wait(60)
            for action in actions:
                action()
            self.proxy.release.set()
            return answer.result(60)


class TaskServer(ApiServer):
    """An api-server with one task."""

    ti_id: uuid.UUID


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TaskServer]:
    folder = tmp_path_factory.mktemp("doubt")
    with pytest.MonkeyPatch.context() as patch, airflow_database(f"sqlite:///{folder}/a.db", folder, patch):
        make_run({"task_id": "t"})
        with TaskServer(folder / "api-server.log") as running:
            running.ti_id = task_instance().id
            yield running


def set_state(ti_id: uuid.UUID, state: TaskInstanceState) -> None:
    with create_session() as session:
        ti = session.get(TaskInstance, ti_id)
        assert ti is not None
        ti.state = state


@pytest.fixture
def scene(server: TaskServer, tmp_path: Path) -> Iterator[Scene]:
    ti_id = server.ti_id
    set_state(ti_id, TaskInstanceState.RUNNING)
    token = task_token(ti_id)
    with FaultProxy(server.port) as proxy:
        edge = EdgeCalls(tmp_path, Held(job(ti_id=str(ti_id), token=token)), proxy.url)
        with edge.running() as client, Client(base_url=server.url, token=token) as straight:
            yield Scene(ti_id, client(), straight, proxy, edge)


def new_run(scene: Scene, *, exists: bool) -> str:
    """Return the id of a run; make it when it is to be there before."""
    run_id = f"r-{uuid.uuid4().hex}"
    if exists:
        assert isinstance(scene.straight.dag_runs.trigger(DAG, run_id), OKResponse)
    return run_id


def times_cleared(run_id: str) -> int:
    with create_session() as session:
        return session.scalars(select(DagRun.clear_number).where(DagRun.run_id == run_id)).one()


@pytest.mark.parametrize("exists", [False, True], ids=["new", "exists"])
@pytest.mark.parametrize("fault", FAULTS)
def test_trigger_is_a_success_only_when_it_has_made_the_run(scene: Scene, fault: Fault, exists: bool) -> None:
    run_id = new_run(scene, exists=exists)
    scene.proxy.faults.append(fault)
    answer = scene.client.dag_runs.trigger(DAG, run_id, conf={"a": 1} if not exists else {})
    assert isinstance(answer, ErrorResponse if exists else OKResponse), answer
    assert scene.straight.dag_runs.get_state(DAG, run_id).state == "queued"
    assert times_cleared(run_id) == 0


@pytest.mark.parametrize("exists", [False, True], ids=["new", "exists"])
@pytest.mark.parametrize("fault", [Fault.HELD_BEFORE, Fault.HELD_AFTER])
def test_trigger_that_a_bridge_took_to_its_grave_comes_to_the_same(scene: Scene, fault: Fault, exists: bool) -> None:
    run_id = new_run(scene, exists=exists)
    trigger = partial(scene.client.dag_runs.trigger, DAG, run_id)
    answer = scene.while_held(fault, trigger, scene.edge.replace_bridge)
    assert isinstance(answer, ErrorResponse if exists else OKResponse), answer


@pytest.mark.parametrize("fault", FAULTS)
def test_run_that_is_to_be_reset_is_cleared_once(scene: Scene, fault: Fault) -> None:
    run_id = new_run(scene, exists=True)
    scene.proxy.faults.append(fault)
    assert isinstance(scene.client.dag_runs.trigger(DAG, run_id, reset_dag_run=True), OKResponse)
    assert times_cleared(run_id) == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_run_is_cleared_once_however_the_call_is_spoiled(scene: Scene, fault: Fault) -> None:
    run_id = new_run(scene, exists=True)
    scene.proxy.faults.append(fault)
    scene.client.dag_runs.clear(DAG, run_id)
    assert times_cleared(run_id) == 1


@pytest.mark.parametrize("fault", [Fault.HELD_BEFORE, Fault.HELD_AFTER])
def test_run_is_cleared_once_though_the_bridge_dies(scene: Scene, fault: Fault) -> None:
    run_id = new_run(scene, exists=True)
    scene.while_held(fault, partial(scene.client.dag_runs.clear, DAG, run_id), scene.edge.replace_bridge)
    assert times_cleared(run_id) == 1


@pytest.mark.parametrize("bridge_dies", [False, True])
def test_run_that_another_task_makes_meanwhile_is_not_taken_for_one_s_own(scene: Scene, bridge_dies: bool) -> None:
    run_id = new_run(scene, exists=False)
    answer = scene.while_held(
        Fault.HELD_BEFORE,
        partial(scene.client.dag_runs.trigger, DAG, run_id, conf={"of": "mine"}),
        partial(scene.straight.dag_runs.trigger, DAG, run_id, conf={"of": "another"}),
        *([scene.edge.replace_bridge] if bridge_dies else []),
    )
    assert isinstance(answer, ErrorResponse), answer


@pytest.mark.parametrize("bridge_dies", [False, True])
def test_task_that_has_moved_on_since_its_state_was_taken_has_told_it(scene: Scene, bridge_dies: bool) -> None:
    told = RescheduleTask(reschedule_date=datetime.now(UTC), end_date=datetime.now(UTC))
    scene.while_held(
        Fault.HELD_AFTER,
        partial(scene.client.task_instances.reschedule, scene.ti_id, told),
        partial(set_state, scene.ti_id, TaskInstanceState.SCHEDULED),
        *([scene.edge.replace_bridge] if bridge_dies else []),
    )


@pytest.mark.parametrize("bridge_dies", [False, True])
def test_task_that_somebody_has_marked_meanwhile_hears_of_it(scene: Scene, bridge_dies: bool) -> None:
    succeed = partial(scene.client.task_instances.succeed, scene.ti_id, datetime.now(UTC), [], [], None)
    with pytest.raises(ServerResponseError) as refused:
        scene.while_held(
            Fault.HELD_BEFORE,
            succeed,
            partial(set_state, scene.ti_id, TaskInstanceState.FAILED),
            *([scene.edge.replace_bridge] if bridge_dies else []),
        )
    assert refused.value.response.status_code == HTTPStatus.CONFLICT
