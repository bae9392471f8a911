"""What the tasks of the stream have left on the edge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, order=True, slots=True)
class Try:
    """One try of one task instance, as its own line on the edge names it."""

    run: str
    task: str
    map: int
    number: int

    @property
    def instance(self) -> tuple[str, str, int]:
        """The task instance that it is a try of."""
        return (self.run, self.task, self.map)

    @property
    def earlier(self) -> Iterator[Try]:
        """The tries before it."""
        for number in range(1, self.number):
            yield Try(run=self.run, task=self.task, map=self.map, number=number)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """One line that a task's code left on the edge."""

    what: Try
    worker: str
    pid: int
    #: Which part of a task that is deferred; empty for others.
    stage: str = ""
    #: Unix seconds.
    at: float = 0.0
    #: No other process ran the same task instance when it began.
    alone: bool = True


def read_evidence(worker: str, file: Path) -> list[Evidence]:
    """Return every line of one machine, in their order."""
    if not file.exists():
        return []
    # Not a line that is being written.
    whole = file.read_text().rpartition("\n")[0].splitlines()
    return [_evidence(worker, json.loads(text)) for text in whole]


def _evidence(worker: str, line: dict[str, object]) -> Evidence:
    fields = {name: line[name] for name in ("pid", "stage", "at", "alone")}
    what = {"run": line["run"], "task": line["task"], "map": line["map"], "number": line["try"]}
    return Evidence(what=Try(**what), worker=worker, **fields)  # type: ignore[arg-type]
