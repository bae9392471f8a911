"""Every log line says by its ``action`` what has happened: that is what filters and alarms go by, not the words."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("broker_bridge", "certs", "executor", "worker")
METHODS = {"debug", "info", "warning", "error", "critical", "exception"}


def log_calls() -> Iterator[tuple[str, ast.Call]]:
    """Return every call of a module's ``log``, and where it stands."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in METHODS
                    and isinstance(node.func.value, ast.Name)
                    and node.func.value.id == "log"
                ):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", node


def has_action(call: ast.Call) -> bool:
    """Tell whether an action is given; a dict that is put together elsewhere counts."""
    for keyword in call.keywords:
        if keyword.arg == "extra":
            given = keyword.value
            return not isinstance(given, ast.Dict) or "action" in [
                key.value for key in given.keys if isinstance(key, ast.Constant)
            ]
    return False


def test_every_log_line_has_an_action() -> None:
    calls = list(log_calls())
    assert len(calls) > 50
    assert [where for where, call in calls if not has_action(call)] == []
