"""What the fields of messages mean, in words: read from the comments in the modules that define them."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from enum import StrEnum
from functools import cache
from types import ModuleType
from typing import Final

from edge_mqtt.broker_bridge.protocol.messages import MESSAGE_OF_KIND, Message, Part

#: What fields mean that many messages have, where a model does not say it.
_EVERYWHERE: Final = {
    "kind": "Tells what the message is.",
    "v": "The protocol version.",
    "job_id": "The job: one queueing of one workload.",
    "fence": "Which assignment of the job this is about; only the newest counts.",
    "request_id": "Tells the answer from others. A repeated request keeps it; no other request may have it.",
    "incarnation": "As in the presence that this answers.",
    "connection": "As in the presence that this answers.",
    "sequence": "As in the presence that this answers.",
    "dag_id": "Airflow's name of the Dag.",
    "run_id": "Airflow's name of the run.",
    "task_id": "Airflow's name of the task.",
    "map_index": "Number of the mapped task, -1 for one that is not mapped.",
    "try_number": "Number of the try.",
    "worker": "A worker's name.",
    "queue": "A queue's name.",
    "stream_id": "As in the stream.",
}
_KIND_OF_CLASS: Final = {model.__name__: kind for kind, model in MESSAGE_OF_KIND.items()}
_ROLE: Final = re.compile(r":class:`([^`]*)`")


def parts() -> dict[str, type[Part]]:
    """Return what messages are made of, by name."""
    return {part.__name__: part for part in Part.__subclasses__() if part is not Message}


def meaning(model: type[Part], field: str) -> str:
    """Return what a field of a message, or of a part of one, means."""
    for base in (base for base in model.__mro__ if issubclass(base, Part)):
        found = comments(sys.modules[base.__module__]).get((base.__name__, field))
        if found is not None:
            return prose(found)
    return _EVERYWHERE[field]


def values(enumeration: type[StrEnum]) -> dict[str, str]:
    """Return what the values of an enumeration mean; empty where the value says it."""
    found = comments(sys.modules[enumeration.__module__])
    return {
        member.value: prose(found.get((enumeration.__name__, name), ""))
        for name, member in enumeration.__members__.items()
    }


def prose(text: str) -> str:
    """Return a docstring or comment as Markdown, in JSON's words."""
    text = _ROLE.sub(lambda named: f"`{_KIND_OF_CLASS[named[1]]}`", text).replace("``", "`")
    return re.sub(r"\bNone\b", "`null`", text)


@cache
def comments(module: ModuleType) -> Mapping[tuple[str, str], str]:
    """Return what the ``#:`` comments of a module say, by class (empty for none) and name."""
    source = inspect.getsource(module)
    lines = source.splitlines()
    return {key: text for key, line in _assignments(ast.parse(source)) if (text := _comment_above(lines, line))}


def _assignments(tree: ast.Module) -> Iterator[tuple[tuple[str, str], int]]:
    """Yield class and name of what is assigned in a module and its classes, and the line."""
    scopes = [("", tree.body), *((node.name, node.body) for node in tree.body if isinstance(node, ast.ClassDef))]
    for scope, body in scopes:
        for node in body:
            if isinstance(node, ast.AnnAssign | ast.Assign):
                target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
                yield (scope, ast.unparse(target)), node.lineno


def _comment_above(lines: list[str], line: int) -> str:
    first = line - 1
    while lines[first - 1].lstrip().startswith("#:"):
        first -= 1
    return " ".join(text.lstrip().removeprefix("#:").strip() for text in lines[first : line - 1])
