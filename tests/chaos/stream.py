"""A stream of Dag runs: a few are always on their way, whatever happens to Airflow meanwhile."""

from __future__ import annotations

import random

from deploy.quickstart.errors import RestFailed
from deploy.quickstart.rest import run_path
from deploy.quickstart.stack import Stack

DAG = "chaos_lines"
#: Mapped tasks of a run.
PARTS = 3
#: Tasks of a run: before and after the mapped ones there is one each.
TASKS = PARTS + 2
#: Seconds that a mapped task takes: from less than any fault to more than most.
_SECONDS = (2.0, 30.0)
#: Runs at once: a handful of tasks.
_AT_ONCE = 3
_ENDED = frozenset({"success", "failed"})
_CONFLICT = 409


class Stream:
    """Keeps runs going and knows how each ended."""

    def __init__(self, stack: Stack, seed: int) -> None:
        self._stack = stack
        self._chance = random.Random(f"stream {seed}")
        #: Run id -> its state when last seen.
        self.states: dict[str, str] = {}
        self._next: tuple[str, dict[str, object]] | None = None

    @property
    def unfinished(self) -> list[str]:
        """The runs that go on."""
        return [run_id for run_id, state in self.states.items() if state not in _ENDED]

    def feed(self) -> None:
        """Look how the runs are doing and start what is missing; an api-server that is away is asked again later."""
        try:
            self.look()
            while len(self.unfinished) < _AT_ONCE:
                self._trigger()
        except RestFailed as error:
            if _is_real(error):
                raise

    def look(self) -> bool:
        """Ask for the state of every run that goes on; tell whether all were answered for."""
        try:
            for run_id in self.unfinished:
                self.states[run_id] = self._stack.run_state(DAG, run_id)
        except RestFailed as error:
            if _is_real(error):
                raise
            return False
        return True

    def task_instances(self, run_id: str) -> list[dict[str, object]]:
        """Return a run's task instances."""
        return self._stack.task_instances(DAG, run_id)

    def checked_parts(self, run_id: str) -> object:
        """Return what the run's last task handed on: the number of XComs that it found to be right."""
        path = f"{run_path(DAG, run_id)}/taskInstances/check/xcomEntries/return_value"
        try:
            return self._stack.rest("GET", path)["value"]
        except RestFailed as error:
            if error.status != 404:
                raise
            return None

    def _trigger(self) -> None:
        if self._next is None:
            seconds = round(self._chance.uniform(*_SECONDS), 1)
            conf: dict[str, object] = {"parts": PARTS, "seconds": seconds}
            self._next = (f"chaos-{len(self.states):04d}", conf)
        run_id, conf = self._next
        body = {"dag_run_id": run_id, "logical_date": None, "conf": conf}
        try:
            self._stack.rest("POST", f"/dags/{DAG}/dagRuns", body)
        except RestFailed as error:
            # The answer to the first attempt was lost, the run was not.
            if error.status != _CONFLICT:
                raise
        self.states[run_id] = "queued"
        self._next = None


def _is_real(error: RestFailed) -> bool:
    """Tell whether an error is more than an api-server that is away or just went."""
    return 400 <= error.status < 500
