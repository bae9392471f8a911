"""What the worker replaces of other people's modules is known to one place, which puts it back."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_mqtt.worker.supervisor.replaced_names import ReplacedNames

ROOT = Path(__file__).parents[2]
#: Replaces for everybody, by way of whom all others do; and what is put back before the function returns.
ALLOWED = {
    "worker/supervisor/replaced_names.py": {"setattr"},
    "worker/launcher/logging_shortcut.py": {"dictConfig"},
    # Of this process's own streams and hooks.
    "worker/launcher/forked.py": {"stdout"},
    "worker/launcher/preload.py": {"excepthook"},
}


def replacements_in(source: str) -> Iterator[str]:
    """Return the names that a file sets in modules, or classes, that it has imported."""
    tree = ast.parse(source)
    imported = {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, ctx=ast.Store() | ast.Del(), value=ast.Name(id=owner)) if owner in imported:
                yield name
            case ast.Subscript(
                ctx=ast.Store() | ast.Del(), value=ast.Call(func=ast.Name(id="vars")), slice=ast.Constant(value=name)
            ):
                yield str(name)
            case ast.Call(func=ast.Name(id="setattr" | "delattr")):
                yield "setattr"
            case ast.Attribute(attr="register_at_fork"):
                yield "register_at_fork"


def test_nothing_in_the_worker_replaces_a_name_but_by_way_of_the_list() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in sorted((ROOT / "worker").rglob("*.py"))
        if (names := set(replacements_in(path.read_text(encoding="utf-8"))))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    "code",
    [
        "import signal\nsignal.alarm = None",
        "from a import b\nb.c = 1",
        "import a.b\nvars(a.b)['c'] = 1",
        "setattr(a, name, 1)",
        "import os\nos.register_at_fork(before=print)",
        "import a\ndel a.b",
    ],
)
def test_a_replacement_is_seen(code: str) -> None:
    assert list(replacements_in(code))


def test_what_was_replaced_is_put_back_whoever_did_so_how_often() -> None:
    class Owner:
        def method(self) -> int:
            return 1

    replaced = ReplacedNames()
    for number in (2, 3):
        replaced.replace(Owner, "method", lambda _self, number=number: number)
    assert Owner().method() == 3
    replaced.restore()
    assert Owner().method() == 1
    replaced.restore()
    assert Owner().method() == 1
