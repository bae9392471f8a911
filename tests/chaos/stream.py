"""A stream of Dag runs: a few are always on their way, whatever happens to Airflow meanwhile."""

from __future__ import annotations

import itertools
import random
import threading
from typing import Any

from deploy.quickstart.airflow_rest import run_path
from deploy.quickstart.errors import RestFailed
from deploy.quickstart.stack import Stack
from tests.chaos.evidence import Try
from tests.chaos.faults import Kind

LINES, BRIEF, HELD = DAGS = ("chaos_lines", "chaos_brief", "chaos_held")
#: The one task of each that a fault may choose.
BRIEF_TASK, HELD_TASK = "brief", "hold"
#: The queue of the brief task.
BRIEF_QUEUE = "brief"
#: Mapped tasks of a run of the first.
PARTS = 3
#: Task instances of a run of each. The first's: a plan, the parts, one that is deferred, and a check.
TASKS = {LINES: PARTS + 3, BRIEF: 1, HELD: 2}
#: XComs that the check finds to be right: the parts' and the deferred task's.
XCOMS = PARTS + 1
#: Seconds that a mapped task takes: from less than any fault to more than most.
_SECONDS = (2.0, 30.0)
#: Runs at once: a handful of tasks.
_AT_ONCE = 3
_ENDED = frozenset({"success", "failed"})
_CONFLICT = 409


def dag_of(run_id: str) -> str:
    """Return the Dag of one of the stream's runs."""
    return run_id.rpartition("-")[0]


class Stream:
    """Keeps runs going and knows how each ended. Any thread may ask."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._chance = random.Random(f"stream {seed}")
        self._lock = threading.Lock()
        self._states: dict[str, str] = {}
        self._numbers = itertools.count()
        self._next: tuple[str, dict[str, object]] | None = None

    @property
    def states(self) -> dict[str, str]:
        """Run id -> its state when last seen."""
        with self._lock:
            return dict(self._states)

    @property
    def unfinished(self) -> list[str]:
        """The runs that go on."""
        return [run_id for run_id, state in self.states.items() if state not in _ENDED]

    def feed(self) -> None:
        """Look how the runs are doing and start what is missing; an api-server that is away is asked again later."""
        try:
            self.look()
            while sum(dag_of(run) == LINES for run in self.unfinished) < _AT_ONCE:
                if self._next is None:
                    conf: dict[str, object] = {"parts": PARTS, "seconds": round(self._chance.uniform(*_SECONDS), 1)}
                    self._next = (self.new_run(LINES), conf)
                self._start(*self._next)
                self._next = None
        except RestFailed as error:
            if is_real(error):
                raise

    def look(self) -> bool:
        """Ask for the state of every run that goes on; tell whether all were answered for."""
        try:
            for run_id in self.unfinished:
                self._note(run_id, self._stack.run_state(dag_of(run_id), run_id))
        except RestFailed as error:
            if is_real(error):
                raise
            return False
        return True

    def new_run(self, dag_id: str) -> str:
        """Return a run id that is not taken."""
        return f"{dag_id}-{next(self._numbers):04d}"

    def try_to_start(self, run_id: str, conf: dict[str, object]) -> bool:
        """Start a run; False: the api-server is away, to be tried again."""
        try:
            self._start(run_id, conf)
        except RestFailed as error:
            if is_real(error):
                raise
            return False
        return True

    def try_to_stop(self, what: Try, how: Kind) -> bool:
        """Mark a task instance failed, or clear it; False: the api-server is away, to be tried again."""
        dag_id = dag_of(what.run)
        try:
            if how is Kind.MARK:
                path = f"{run_path(dag_id, what.run)}/taskInstances/{what.task}"
                self._stack.rest("PATCH", path, {"new_state": "failed"})
            else:
                body = {"dry_run": False, "only_failed": False, "dag_run_id": what.run, "task_ids": [what.task]}
                self._stack.rest("POST", f"/dags/{dag_id}/clearTaskInstances", body)
        except RestFailed as error:
            if is_real(error):
                raise
            return False
        return True

    def task_instances(self, run_id: str) -> list[dict[str, Any]]:
        """Return a run's task instances."""
        return self._stack.task_instances(dag_of(run_id), run_id)

    def checked_xcoms(self, run_id: str) -> object:
        """Return what the run's last task handed on: the number of XComs that it found to be right."""
        path = f"{run_path(LINES, run_id)}/taskInstances/check/xcomEntries/return_value"
        try:
            return self._stack.rest("GET", path)["value"]
        except RestFailed as error:
            if error.status != 404:
                raise
            return None

    def _start(self, run_id: str, conf: dict[str, object]) -> None:
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        try:
            self._stack.rest("POST", f"/dags/{dag_of(run_id)}/dagRuns", body)
        except RestFailed as error:
            # The answer to the first attempt was lost, the run was not.
            if error.status != _CONFLICT:
                raise
        self._note(run_id, "queued")

    def _note(self, run_id: str, state: str) -> None:
        with self._lock:
            self._states[run_id] = state


def is_real(error: RestFailed) -> bool:
    """Tell whether an error is more than an api-server that is away, just went, or has lost its database."""
    return 400 <= error.status < 500
