"""Every field of every message has bounds, and what is beyond them is refused in one line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from edge_mqtt.broker_bridge.program.settings import kinds
from edge_mqtt.broker_bridge.protocol import limits
from edge_mqtt.broker_bridge.protocol.codec import encode, read
from edge_mqtt.broker_bridge.protocol.documentation.json_schema import definitions_by_class
from edge_mqtt.broker_bridge.protocol.errors import problem_of
from edge_mqtt.broker_bridge.protocol.ids import Fence, JobId
from edge_mqtt.broker_bridge.protocol.messages import (
    AssignmentRejected,
    Finished,
    JobSpec,
    Presence,
    Submit,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.messages.bounds import is_job_id


def spec(**fields: Any) -> JobSpec:
    return JobSpec(**({"job_id": "j", "type": WorkloadType.TASK, "queue": "q"} | fields))


def nested(levels: int, innermost: object = None) -> dict[str, Any]:
    document: dict[str, Any] = {} if innermost is None else {"x": innermost}
    for _ in range(levels - 1):
        document = {"x": document}
    return document


def unbounded(field: dict[str, Any], where: str) -> Iterator[str]:
    for choice in field.get("anyOf", ()):
        yield from unbounded(choice, where)
    kind = field.get("type")
    if kind == "string" and not field.keys() & {"maxLength", "const", "enum"}:
        yield where
    if kind in ("integer", "number") and not (
        field.keys() & {"minimum", "exclusiveMinimum"} and field.keys() & {"maximum", "exclusiveMaximum"}
    ):
        yield where
    if kind == "array":
        if "maxItems" not in field:
            yield where
        yield from unbounded(field["items"], f"{where}[]")
    if kind == "object" and "properties" not in field and not where.endswith(".workload"):
        if "maxProperties" not in field:
            yield where
        for content in field["patternProperties"].values():
            yield from unbounded(content, f"{where}{{}}")


def test_every_field_of_every_message_is_bounded() -> None:
    definitions = definitions_by_class()
    found = [
        problem
        for model, definition in definitions.items()
        for name, field in definition.get("properties", {}).items()
        for problem in unbounded(field, f"{model}.{name}")
    ]
    assert found == []
    assert len(definitions) > 30


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"job_id": ""}, "job_id: String should have at least 1 character"),
        ({"job_id": "a\0b"}, "job_id: String should match pattern"),
        ({"job_id": "\ud800"}, "job_id: Input should be a valid string"),
        ({"job_id": "j" * 251}, "job_id: String should have at most 250 characters"),
        ({"queue": ""}, "queue: String should have at least 1 character"),
        ({"dag_id": "d" * 501}, "dag_id: String should have at most 500 characters"),
        ({"slots": 0}, "slots: Input should be greater than or equal to 1"),
        ({"slots": 2**31}, "slots: Input should be less than or equal to 2147483647"),
        ({"map_index": -(2**31)}, "map_index: Input should be greater than or equal to -2147483647"),
        ({"priority": 2**63}, "priority: Input should be less than or equal to 9223372036854775807"),
        ({"log_path": "ü" * 1301}, "log_path: it has 2602 bytes, at most 2600 are allowed"),
        ({"workload": nested(101)}, "workload: it is nested more than 100 levels deep"),
        ({"workload": nested(100, 1)}, "workload: it is nested more than 100 levels deep"),
        ({"workload": {"x": [{"y": "\ud800"}]}}, "workload: it has text that is not Unicode: half a character"),
        ({"workload": {"\udfff": 1}}, "workload: it has text that is not Unicode: half a character"),
        ({"workload": {"x": float("nan")}}, "workload: nan is no number in JSON"),
        ({"workload": {"x": [-float("inf")]}}, "workload: -inf is no number in JSON"),
        ({"workload": {"x": 2**1024}}, "workload: it has a number that is too large"),
        ({"workload": {"x": b"bytes"}}, "workload: it has a bytes, which is not JSON"),
        ({"workload": {"x": {1: 2}}}, "workload: an object has a key that is not text"),
    ],
)
def test_what_is_beyond_its_bounds_is_refused_in_one_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError) as raised:
        spec(**fields)
    told = problem_of(raised.value)
    assert told.startswith(says)
    assert told.isprintable()


@pytest.mark.parametrize(
    "fields",
    [
        {
            "job_id": "0199f3a2-7c3d-7c1e-8a44-0c6f2b1d9e11",
            "queue": "q" * 256,
            "dag_id": "d" * 250,
            "task_id": "t" * 250,
        },
        {"priority": -(2**63) + 1, "slots": 2**31 - 1, "map_index": -1, "try_number": 2**31 - 1},
        {"log_path": "dag_id=" + "ü" * 250 + "/run_id=" + "r" * 250 + "/task_id=" + "漢" * 250 + "/attempt=1.log"},
        {"workload": nested(100)},
        {"workload": nested(99, 1)},
        {"workload": {"x": [2**1023, 1.5, True, None, "\0 is text", ("a", "tuple")]}},
    ],
)
def test_what_airflow_may_send_passes_and_comes_back(fields: dict[str, Any]) -> None:
    job = spec(**fields)
    assert job.problem() is None
    (packet, *rest) = encode(Submit(job=job, token="t"))
    assert not rest
    again = read(packet)
    assert isinstance(again, Submit)
    assert again.job.model_dump(mode="json") == job.model_dump(mode="json")


def test_numbers_of_a_presence_are_bounded() -> None:
    with pytest.raises(ValidationError, match="concurrency"):
        Presence(incarnation="i", connection=1, state=WorkerState.ONLINE, concurrency=-1)
    with pytest.raises(ValidationError, match="queues"):
        Presence(incarnation="i", connection=1, state=WorkerState.ONLINE, queues=("q",) * (limits.MAX_ITEMS + 1))
    with pytest.raises(ValidationError, match="started_at"):
        Finished(job_id=JobId("j"), fence=Fence(1), started_at=float("nan"))


def test_words_for_people_are_made_to_fit_instead_of_refused() -> None:
    told = AssignmentRejected(job_id=JobId("j"), fence=Fence(1), reason="a\0b\ud800c\n\t" + "x" * 5000).reason
    assert told.startswith("a\ufffdb\ufffdc\n\txxx")
    assert len(told) == limits.MAX_PROSE_CHARS
    assert told.endswith("…")
    assert AssignmentRejected(job_id=JobId("j"), fence=Fence(1), reason="disk full").reason == "disk full"
    with pytest.raises(ValidationError, match="reason"):
        AssignmentRejected.model_validate({"job_id": "j", "fence": 1, "reason": ["no", "text"]})


def test_a_stored_job_is_taken_as_it_is_and_says_what_keeps_it_from_being_sent() -> None:
    facts = dict(spec(), workload=nested(300))
    job = JobSpec.stored(facts)
    assert job.workload == nested(300)
    assert job.problem() == "workload: it is nested more than 100 levels deep"


@pytest.mark.parametrize(("value", "is_one"), [("j", True), ("", False), ("a\0", False), (None, False), (7, False)])
def test_only_bounded_text_is_a_job_s_id(value: object, is_one: bool) -> None:
    assert is_job_id(value) is is_one


def test_settings_and_wire_agree_on_the_length_of_a_name() -> None:
    assert kinds.MAX_NAME_CHARS == limits.MAX_NAME_CHARS
    with pytest.raises(kinds.NotAllowed, match="at most"):
        kinds.Names().parse("default," + "q" * 501)
