"""No file, of source or tests, is longer than a sitting, and no function than a screen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("broker_bridge", "certs", "deploy", "executor", "tests", "worker")
#: Lines.
LONGEST_FILE = 400
#: Lines from the first statement to the last: a command's parameters are its options, and may be many.
LONGEST_FUNCTION = 45

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> Iterator[tuple[str, str]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")


def is_dag_file(name: str) -> bool:
    """Tell whether a file is in a folder of Dags: a Dag is one function with its tasks inside."""
    return any("dags" in folder for folder in Path(name).parent.parts)


def length_of(function: Function) -> int:
    return (function.end_lineno or 0) - function.body[0].lineno + 1


def long_functions(source: str) -> dict[str, int]:
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Function)]
    return {each.name: lines for each in functions if (lines := length_of(each)) > LONGEST_FUNCTION}


def test_no_file_has_more_than_400_lines() -> None:
    long = {name: lines for name, source in sources() if (lines := source.count("\n")) > LONGEST_FILE}
    assert not long


def test_no_function_has_more_than_45_lines() -> None:
    functions = ((name, long_functions(source)) for name, source in sources() if not is_dag_file(name))
    assert not {name: long for name, long in functions if long}


def test_a_long_function_is_found_and_its_signature_is_not_counted() -> None:
    def function(lines: int) -> str:
        return "def f(\n" + "    a,\n" * 60 + "):\n" + "    g()\n" * lines

    assert long_functions(function(LONGEST_FUNCTION)) == {}
    assert long_functions(function(LONGEST_FUNCTION + 1)) == {"f": LONGEST_FUNCTION + 1}
