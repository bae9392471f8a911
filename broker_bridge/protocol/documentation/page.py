"""The generated parts of docs/protocol.md: the access table, the limits, and every message with its fields."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from edge_mqtt.broker_bridge.program.generated import with_generated
from edge_mqtt.broker_bridge.protocol import limits
from edge_mqtt.broker_bridge.protocol.access import TABLE
from edge_mqtt.broker_bridge.protocol.documentation.field_meanings import comments, meaning, parts, prose, values
from edge_mqtt.broker_bridge.protocol.documentation.json_schema import json_schema
from edge_mqtt.broker_bridge.protocol.messages import (
    MESSAGE_OF_KIND,
    BinaryMessage,
    Outcome,
    Part,
    ReportedJobState,
    WorkerState,
    WorkloadType,
)
from edge_mqtt.broker_bridge.protocol.qos import qos_of

PAGE: Final = "protocol.md"
SCHEMA: Final = "protocol/messages.schema.json"


@dataclass(frozen=True, slots=True)
class Route:
    """Who sends messages of a kind, who receives them, and on which topic below prefix and version."""

    sender: str
    receiver: str
    topic: str


_TO_WORKER: Final = Route("bridge", "worker", "control/{name}")
_FROM_EXECUTOR: Final = Route("executor", "bridge", "admin/{client_id}/request")
_TO_EXECUTOR: Final = Route("bridge", "executor", "events/{name}")
_ANY: Final = Route("any", "any", "")

#: In the order in which the page describes them.
ROUTES: Final[Mapping[str, Route]] = {
    "presence": Route("worker", "bridge", "workers/{name}"),
    "welcome": _TO_WORKER,
    "presence_ack": _TO_WORKER,
    "assign": Route("bridge", "worker", "jobs/{queue}/to/{name}"),
    "assignment_accepted": Route("worker", "bridge", "acks/{name}"),
    "assignment_rejected": Route("worker", "bridge", "acks/{name}"),
    "start_request": Route("worker", "bridge", "rpc/{name}/request"),
    "api_request": Route("worker", "bridge", "rpc/{name}/request"),
    "api_response": Route("bridge", "worker", "rpc/{name}/response"),
    "log_chunk": Route("worker", "bridge", "logs/{name}/{job_id}"),
    "log_ack": _TO_WORKER,
    "finished": Route("worker", "bridge", "results/{name}"),
    "result_ack": _TO_WORKER,
    "cancel": _TO_WORKER,
    "executor_hello": _FROM_EXECUTOR,
    "submit": Route("executor", "bridge", "jobs/{queue}/from/{name}"),
    "job_accepted": _TO_EXECUTOR,
    "job_started": _TO_EXECUTOR,
    "job_finished": _TO_EXECUTOR,
    "event_ack": _FROM_EXECUTOR,
    "cancel_job": _FROM_EXECUTOR,
    "cancel_ack": _TO_EXECUTOR,
    "adopt_request": _FROM_EXECUTOR,
    "adopt_reply": Route("bridge", "executor", "admin/{client_id}/response"),
    "tail_request": Route("operator", "bridge", "admin/{client_id}/request"),
    "tail_reply": Route("bridge", "operator", "admin/{client_id}/response"),
    "fragment": _ANY,
    "error": _ANY,
}
_ENUMERATIONS: Final[tuple[type[StrEnum], ...]] = (WorkerState, ReportedJobState, WorkloadType, Outcome)
#: How bounds are written.
_SIGNS: Final = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minLength": "length ≥",
    "maxLength": "length ≤",
    "maxItems": "entries ≤",
    "maxProperties": "entries ≤",
}


def write_into(folder: Path) -> None:
    """Replace the generated parts of the page in ``folder``, and write the schema below it.

    :raises OSError: a file cannot be read or written.
    :raises ProgramError: the page has not the marks between which the parts stand.
    """
    page = folder / PAGE
    page.write_text(up_to_date(page.read_text(encoding="utf-8")), encoding="utf-8")
    schema = folder / SCHEMA
    schema.parent.mkdir(exist_ok=True)
    schema.write_text(json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def up_to_date(page: str) -> str:
    """Return the page with its generated parts written anew.

    :raises ProgramError: the marks of a part are missing.
    """
    return with_generated(page, {name: lines() for name, lines in PARTS.items()})


def _access() -> Iterator[str]:
    yield "| role | may | topic below `<prefix>/v1/` |"
    yield "|---|---|---|"
    for grant in TABLE:
        yield f"| {grant.role} | {grant.action} | {_topic(grant.template)} |"


def _limits() -> Iterator[str]:
    yield "| name | value | what it is |"
    yield "|---|---|---|"
    texts = comments(limits)
    for name in (name for name in vars(limits) if name.isupper()):
        yield f"| `{name}` | {_number(getattr(limits, name))} | {texts['', name]} |"


def _kinds() -> Iterator[str]:
    yield "| kind | from | to | topic below `<prefix>/v1/` | QoS |"
    yield "|---|---|---|---|---|"
    for kind, route in ROUTES.items():
        yield f"| [`{kind}`](#{kind}) | {route.sender} | {route.receiver} | {_topic(route.topic)} | {qos_of(kind)} |"


def _messages() -> Iterator[str]:
    for kind in ROUTES:
        model = MESSAGE_OF_KIND[kind]
        yield f"#### {kind}"
        yield ""
        yield from _model(model)
        if issubclass(model, BinaryMessage):
            yield "A line feed and the message's body follow the line of JSON."
            yield ""
    for name, part in parts().items():
        yield f"#### {name}"
        yield ""
        yield from _model(part)
    for enumeration in _ENUMERATIONS:
        yield f"#### {enumeration.__name__}"
        yield ""
        yield prose(inspect.getdoc(enumeration) or "")
        yield ""
        for value, text in values(enumeration).items():
            yield f'- `"{value}"`' + (f": {text}" if text else "")
        yield ""


#: The generated parts of the page, by the names in its marks.
PARTS: Final[Mapping[str, Callable[[], Iterator[str]]]] = {
    "access": _access,
    "kinds": _kinds,
    "messages": _messages,
    "limits": _limits,
}


def _model(model: type[Part]) -> Iterator[str]:
    yield prose(inspect.getdoc(model) or "")
    yield ""
    schema = model.model_json_schema(mode="serialization")
    fields = {name: field for name, field in schema["properties"].items() if name not in ("kind", "v")}
    if not fields:
        return
    yield "| field | type | default | what it is |"
    yield "|---|---|---|---|"
    for name, field in fields.items():
        # A default that is made anew for each message is an empty object.
        default = "required" if name in schema.get("required", ()) else f"`{json.dumps(field.get('default', {}))}`"
        yield f"| `{name}` | {_type(field)} | {default} | {meaning(model, name)} |"
    yield ""


def _topic(template: str) -> str:
    return f"`{template.replace('{', '<').replace('}', '>')}`" if template else "see below"


def _type(field: Mapping[str, Any]) -> str:
    match field:
        case {"$ref": str(ref)}:
            name = ref.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"anyOf": [*choices]}:
            return " or ".join(map(_type, choices))
        case {"type": "array", "items": items}:
            return f"array of {_inner(items)}{_bounds(field)}"
        case {"type": "object", "patternProperties": dict(by_key)}:
            (content,) = by_key.values()
            return f"object of {_inner(content)}{_bounds(field)}"
    return f"{field['type']}{_bounds(field)}"


def _inner(field: Mapping[str, Any]) -> str:
    content = _type(field)
    return f"({content})" if "," in content else content


def _bounds(field: Mapping[str, Any]) -> str:
    return "".join(f", {sign} {_number(field[key])}" for key, sign in _SIGNS.items() if key in field)


def _number(number: float) -> str:
    largest = limits.MAX_INTEGER
    return {largest: "2^63 - 1", -largest: "-(2^63 - 1)"}.get(int(number), f"{number:,}")
