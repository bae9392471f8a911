"""docs/protocol.md and the JSON Schema say what the code does."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from edge_mqtt.broker_bridge.dispatch.event_mapping import event_for
from edge_mqtt.broker_bridge.protocol.access import TABLE, Action
from edge_mqtt.broker_bridge.protocol.codec import read
from edge_mqtt.broker_bridge.protocol.documentation.json_schema import json_schema
from edge_mqtt.broker_bridge.protocol.documentation.page import (
    PAGE,
    ROUTES,
    SCHEMA,
    up_to_date,
    write_into,
)
from edge_mqtt.broker_bridge.protocol.messages import MESSAGE_OF_KIND
from edge_mqtt.broker_bridge.protocol.topics import Topics, matches
from tests.unit.broker_bridge.protocol.test_vectors import VECTORS, name, plain

DOCS = Path(__file__).parents[5] / "docs"
#: A row of the table of timers: a number, perhaps its unit, and where it is in the code.
TIMER = re.compile(r"^\| ([\d.]+)(?: s| bytes)? \| .* \| `([\w.]+)` in ([\w/]+) \|$", re.MULTILINE)
TOPICS = Topics()


def in_the_code(name: str, folder: str) -> set[float]:
    """Return the values that a constant, or the default of a class of timings or limits, has below a folder."""
    owner, _, field = name.rpartition(".")
    begins = re.compile(rf"^class {owner}:" if owner else rf"^{name}\b.* = ", re.MULTILINE)
    found: set[float] = set()
    for file in (DOCS.parent / folder).rglob("*.py"):
        if begins.search(file.read_text(encoding="utf-8")):
            path = file.relative_to(DOCS.parent).with_suffix("")
            module = importlib.import_module(".".join(("edge_mqtt", *path.parts)))
            found.add(float(getattr(getattr(module, owner)(), field) if owner else getattr(module, name)))
    return found


@pytest.fixture(scope="module")
def page() -> str:
    return (DOCS / PAGE).read_text(encoding="utf-8")


def test_generated_parts_of_the_page_are_up_to_date(page: str) -> None:
    assert up_to_date(page) == page, "run make docs"


def test_schema_is_up_to_date() -> None:
    assert json.loads((DOCS / SCHEMA).read_text(encoding="utf-8")) == json_schema()


def test_timers_and_limits_are_those_of_the_code(page: str) -> None:
    rows = TIMER.findall(page)
    assert len(rows) > 15
    for value, constant, folder in rows:
        assert in_the_code(constant, folder) == {float(value)}, constant


def test_parts_are_written_into_a_folder(tmp_path: Path, page: str) -> None:
    emptied = re.sub(r"(<!-- generated: \w+ -->).*?(<!-- end of generated -->)", r"\1\n\2", page, flags=re.DOTALL)
    assert emptied != page
    (tmp_path / PAGE).write_text(emptied, encoding="utf-8")
    write_into(tmp_path)
    assert (tmp_path / PAGE).read_text(encoding="utf-8") == page
    assert json.loads((tmp_path / SCHEMA).read_text(encoding="utf-8")) == json_schema()


# ---------------------------------------------------------------- what the page says of kinds and topics


def test_every_kind_has_its_place() -> None:
    assert set(ROUTES) == set(MESSAGE_OF_KIND)


@pytest.mark.parametrize("kind", [kind for kind, route in ROUTES.items() if route.topic])
def test_access_table_lets_a_kind_go_where_the_page_says(kind: str) -> None:
    route = ROUTES[kind]
    topic = re.sub(r"\{(queue|job_id)\}", "+", route.topic)
    client, action = (
        (route.sender, Action.PUBLISH) if route.receiver == "bridge" else (route.receiver, Action.SUBSCRIBE)
    )
    assert any((grant.role, grant.action, grant.template) == (client, action, topic) for grant in TABLE)


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_samples_travel_on_the_topics_of_their_kinds(vector: dict[str, Any]) -> None:
    kind = json.loads(vector["line"])["kind"]
    if ROUTES[kind].topic:
        assert matches("edge/v1/" + re.sub(r"\{\w+\}", "+", ROUTES[kind].topic), vector["topic"])
    if ROUTES[kind].receiver == "bridge":
        assert any(matches(topic_filter, vector["topic"]) for topic_filter in TOPICS.for_bridge())


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_dispatcher_takes_a_sample_where_the_page_says_and_nowhere_else(vector: dict[str, Any]) -> None:
    message = read(plain(vector))
    of_others = {"log_chunk", "api_request", "start_request", "tail_request"}
    for other in VECTORS:
        taken = event_for(TOPICS.parse(other["topic"]), message) is not None
        belongs = matches("edge/v1/" + re.sub(r"\{\w+\}", "+", ROUTES[message.kind].topic), other["topic"])
        is_of_an_executor = "operator" not in other["topic"]
        said_to_it = ROUTES[message.kind].receiver == "bridge" and message.kind not in of_others
        assert taken is (belongs and said_to_it and is_of_an_executor)


# ---------------------------------------------------------------- the schema


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_samples_are_valid(validator: jsonschema.Draft202012Validator, vector: dict[str, Any]) -> None:
    validator.validate(json.loads(vector["line"]) | {"colour": "of a later version"})


@pytest.mark.parametrize(
    "line",
    [
        {"v": 1},
        {"kind": "sing"},
        {"kind": "finished", "job_id": "j"},
        {"kind": "log_chunk", "job_id": "j", "fence": 1, "offset": -1},
        {"kind": "assign", "fence": 1, "lease_s": 1, "job": {"job_id": "j", "type": "Other", "queue": "q"}},
    ],
)
def test_what_the_bridge_would_not_take_is_not_valid(
    validator: jsonschema.Draft202012Validator, line: dict[str, Any]
) -> None:
    assert not validator.is_valid(line)
