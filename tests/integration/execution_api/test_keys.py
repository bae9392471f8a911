"""Whatever a key has in it: a call from the edge comes to what it comes to straight at Airflow's api-server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tenacity
from airflow.models.asset import AssetActive, AssetModel
from airflow.models.connection import Connection
from airflow.sdk.api.client import Client
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState

from tests.support.api_server import ApiServer, task_token
from tests.support.scenario_edge_calls import EdgeCalls
from tests.support.scenario_executor import RUN_ID, airflow_database, make_run, set_task, task_instance
from tests.support.scenario_relay import Held, job

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]

DAG = "a-dag"
#: Every printable character of ASCII but those that end a path, eight in a key.
PRINTABLE = [
    "".join(f"a{chr(code)}" for code in range(first, min(first + 8, 0x7F)) if chr(code) not in "?#")
    for first in range(0x20, 0x7F, 8)
]
ODD = [
    "https://plant.example/api/v1",
    "s3://bucket/key",
    r"C:\plc\recipe.csv",
    "\\\\server\\share",
    "a/../b",
    "../x",
    "../../x",
    "../../../../api/v2/variables/x",
    "..",
    ".",
    "a/.",
    "a/./b",
    "...",
    "%2e%2e",
    "%2E%2E/%2e%2e/x",
    "a%2F..%2Fb",
    "%2F",
    "%",
    "%zz",
    "%25",
    "//host/share",
    "/abs/path",
    "a//b",
    "a/",
    "a?b=c",
    "?",
    "#",
    " a ",
    "größe µm",
    "日本",
    "🏭",
    "\u202eabc",
    "e\u0301",
    "a\x7f",
    "a\nb",
    "a\x00b",
    "a\tb",
    "a\ud800",
    "user@host:80",
    "[::1]",
    "keys",
    "item/0",
    "x/task-instances/7/heartbeat",
    "x/task-instances/7/run",
    "k" * 250,
    "k" * 251,
    "",
]


class Sides:
    """Two clients of Airflow's: one on the edge, one straight at the api-server."""

    def __init__(self, edge: Client, straight: Client, ti_id: uuid.UUID) -> None:
        self.edge = edge
        self.straight = straight
        self.ti_id = ti_id

    def compare(self, story: Callable[[Client, Client], list[Callable[[], Any]]]) -> str | None:
        """Make the calls of a story on both sides; return a line when they came to different things.

        :param story: the calls of one client, and what another client, always the straight one, sees of them.
        """
        there, here = ([outcome(call) for call in story(one, self.straight)] for one in (self.straight, self.edge))
        return None if there == here else f"straight {there}, on the edge {here}"


def outcome(call: Callable[[], Any]) -> str:
    """Return what a call came to: its value, or the kind of error and Airflow's status."""
    try:
        return repr(call())
    except Exception as error:  # noqa: BLE001  whatever it is, it is to be the same
        status = getattr(getattr(error, "response", None), "status_code", "")
        return f"{type(error).__name__} {status}".strip()


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    folder = tmp_path_factory.mktemp("keys")
    with pytest.MonkeyPatch.context() as patch, airflow_database(f"sqlite:///{folder}/a.db", folder, patch):
        # What fails at Airflow fails at once.
        patch.setattr(Client.request.retry, "stop", tenacity.stop_after_attempt(1))
        make_run({"task_id": "t"})
        set_task(state=TaskInstanceState.RUNNING)
        make_named_things()
        ti_id = task_instance().id
        token = task_token(ti_id)
        held = Held(job(ti_id=str(ti_id), token=token))
        with (
            ApiServer(folder / "api-server.log") as server,
            EdgeCalls(folder, held, server.url).running() as edge,
            Client(base_url=server.url, token=token) as straight,
        ):
            yield Sides(edge(), straight, ti_id)


def make_named_things() -> None:
    """Make connections and assets whose names are the keys."""
    with create_session() as session:
        for number, key in enumerate((*PRINTABLE, *ODD)):
            if not key or "\ud800" in key:
                continue
            connection = Connection(conn_type="http", host="h")
            connection.conn_id = key  # Past its check: others than Airflow write to this table, too.
            session.add(connection)
            asset = AssetModel(name=key, uri=f"x-site:{number}", group="asset")
            session.add(asset)
            session.add(AssetActive.for_asset(asset))


def variable(key: str) -> Callable[[Client, Client], list[Callable[[], Any]]]:
    return lambda one, straight: [
        lambda: one.variables.set(key, "value", "words"),
        lambda: one.variables.get(key),
        lambda: straight.variables.get(key),
        lambda: one.variables.delete(key),
        lambda: straight.variables.get(key),
    ]


def xcom(key: str) -> Callable[[Client, Client], list[Callable[[], Any]]]:
    where = (DAG, RUN_ID, "t", key)
    return lambda one, straight: [
        lambda: one.xcoms.set(*where, ["value", key.encode("utf-8", "replace").decode()]),
        lambda: one.xcoms.get(*where),
        lambda: straight.xcoms.get(*where),
        # Airflow answers it with a body when there is no key at all, which breaks the connection.
        *([lambda: one.xcoms.head(*where)] if key.strip("?#") else []),
        lambda: one.xcoms.get_sequence_item(*where, 0),
        lambda: one.xcoms.get_sequence_slice(*where, 0, 1, None),
        lambda: one.xcoms.delete(*where),
    ]


def task_state(ti_id: uuid.UUID, key: str) -> Callable[[Client, Client], list[Callable[[], Any]]]:
    return lambda one, straight: [
        lambda: one.task_state_store.set(ti_id, key, {"a": 1}, None),
        lambda: one.task_state_store.get(ti_id, key),
        lambda: straight.task_state_store.get(ti_id, key),
        lambda: one.task_state_store.delete(ti_id, key),
    ]


def named_things(key: str) -> Callable[[Client, Client], list[Callable[[], Any]]]:
    """What a task only asks for, or has its key in the query."""
    return lambda one, straight: [
        lambda: one.connections.get(key),
        lambda: one.dags.get(key),
        lambda: one.dag_runs.get_state(key, RUN_ID),
        lambda: one.dag_runs.get_detail(DAG, key),
        lambda: one.dag_runs.clear(DAG, key),
        lambda: one.task_instances.get_previous(DAG, key),
        lambda: one.variables.keys(prefix=key),
        lambda: one.assets.get(name=key),
        lambda: one.asset_state_store.set(key, 1, name=key),
        lambda: straight.asset_state_store.get(key, name=key),
    ]


def trigger(key: str) -> Callable[[Client, Client], list[Callable[[], Any]]]:
    # The one that comes second finds the run of the first.
    return lambda one, _: [
        lambda: outcome(lambda: one.dag_runs.trigger(DAG, key)) and None,
        lambda: one.dag_runs.trigger(DAG, key),
    ]


@pytest.mark.parametrize("story", [variable, xcom, "task_state", named_things, trigger])
def test_key_comes_to_the_same_on_the_edge_as_straight_at_airflow(sides: Sides, story: Any) -> None:
    make = (lambda key: task_state(sides.ti_id, key)) if story == "task_state" else story
    differences = {key: line for key in (*PRINTABLE, *ODD) if (line := sides.compare(make(key)))}
    assert not differences


@pytest.mark.parametrize("key", ["https://plant.example/api/v1", r"C:\plc\recipe.csv", "s3://b/k", "%2e%2e", "a b"])
def test_value_that_is_set_on_the_edge_is_there(sides: Sides, key: str) -> None:
    sides.edge.variables.set(key, key)
    sides.edge.xcoms.set(DAG, RUN_ID, "t", key, key)
    for client in (sides.edge, sides.straight):
        assert client.variables.get(key).value == key
        assert client.xcoms.get(DAG, RUN_ID, "t", key).value == key


@pytest.mark.parametrize("key", ["a/../b", "../../../..", "https://plant.example/../..", r"C:\..\..", "%2e%2e/x"])
def test_quoted_way_up_is_a_key(sides: Sides, key: str) -> None:
    sides.edge.task_state_store.set(sides.ti_id, key, key, None)
    for client in (sides.edge, sides.straight):
        assert client.task_state_store.get(sides.ti_id, key).value == key
