"""One run of a Dag whose only task holds, seen from the test that holds it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil

from deploy.quickstart.airflow_rest import run_path
from deploy.quickstart.stack import Stack
from tests.support.run_checks import assert_one_final_event, log_path

#: One for each queue.
DAG, NOWHERE_DAG, BRIEF_DAG, KEPT_DAG = "e2e_hold", "e2e_hold_nowhere", "e2e_hold_brief", "e2e_hold_kept"
#: One whose task needs a slot of a pool that the test makes.
POOLED_DAG, POOL = "e2e_hold_pooled", "outages"
TASK = "hold"
#: What the task does when it is asked to push (``STEPS`` in its Dag).
STEPS = 4


class HeldTask:
    """Its task runs until :meth:`release`."""

    def __init__(
        self, stack: Stack, folder: Path, *, dag_id: str = DAG, begins: bool = True, **options: bool
    ) -> None:
        """Start the run and wait until the task's code runs.

        :param folder: where the task leaves its traces.
        :param begins: False when the task cannot begin yet; :meth:`await_begun` waits for it then.
        :param options: ``stubborn``: it ignores SIGTERM and has a child; ``quiet``: it writes no log meanwhile;
            ``lingers``: its process lives on after it has told Airflow its state, until :meth:`leave`.
        """
        folder.mkdir(exist_ok=True)
        self._stack = stack
        self._folder = folder
        self.dag_id = dag_id
        self.run_id = stack.trigger(dag_id, {"folder": str(folder), **options})
        #: The task's process and its supervisor's.
        self.pid = self.supervisor_pid = 0
        if begins:
            self.await_begun()

    def await_begun(self) -> None:
        """Wait until the task's code runs."""
        (line,) = self.await_trace("pids", timeout_s=90)
        self.pid, self.supervisor_pid = map(int, line.split())

    @property
    def path(self) -> str:
        """The run's path in the REST API."""
        return run_path(self.dag_id, self.run_id)

    def instance(self) -> dict[str, Any]:
        """Return the task instance."""
        (found,) = self._stack.task_instances(self.dag_id, self.run_id)
        return found

    def trace(self, name: str, *, try_number: int = 1) -> list[str]:
        """Return the lines of a trace that a try has left."""
        path = self._folder / f"{try_number}.{name}"
        return path.read_text().splitlines() if path.exists() else []

    def await_trace(self, name: str, *, try_number: int = 1, timeout_s: float = 60.0) -> list[str]:
        """Wait for a trace of a try and return its lines."""
        what = f"{name} of try {try_number} in {self._folder.name}"
        self._stack.wait_until(lambda: bool(self.trace(name, try_number=try_number)), what, timeout_s=timeout_s)
        return self.trace(name, try_number=try_number)

    def await_beats(self, count: int) -> None:
        """Wait until the first try has gone round ``count`` times more."""
        wanted = len(self.trace("beats")) + count
        self._stack.wait_until(lambda: len(self.trace("beats")) >= wanted, f"{count} more beats")

    def push(self) -> None:
        """Have it write XComs and a Variable, and return as soon as it has begun to."""
        (self._folder / "push").touch()
        self.await_trace("pushing")

    def pushed(self) -> list[str]:
        """Return the XComs that it wrote, as Airflow has them, in the order in which they came."""
        entries = self._stack.rest("GET", f"{self.path}/taskInstances/{TASK}/xcomEntries")["xcom_entries"]
        return [key for _, key in sorted((entry["timestamp"], entry["key"]) for entry in entries)]

    def assert_pushed_in_order(self) -> None:
        """Assert that everything that it wrote is in Airflow, in the order in which it was written."""
        assert self.pushed() == [f"step_{step}" for step in range(STEPS)]
        assert self._stack.rest("GET", f"/variables/step_in_{self._folder.name}")["value"] == str(STEPS - 1)

    def defer(self) -> None:
        """Have it defer itself; it goes on a second later, as another job of the same try."""
        self.ask("defer")

    def ask(self, what: str) -> None:
        """Have it ``defer`` or ``reschedule`` itself for a second, or ``fail``."""
        (self._folder / what).touch()

    def leave(self) -> None:
        """Have its process end that lives on after its last word."""
        (self._folder / "leave").touch()

    def release(self) -> None:
        """Let it go."""
        (self._folder / "release").touch()

    def await_gone(self, *, timeout_s: float = 30.0) -> None:
        """Wait until the first try's process is no more."""
        self._stack.wait_until(lambda: is_gone(self.pid), f"process {self.pid} to end", timeout_s=timeout_s)

    def log_path(self, try_number: int = 1) -> Path:
        """Return where the log of a try is, below a home's logs."""
        return log_path(self.instance(), try_number)

    def central_log(self, try_number: int = 1) -> str:
        """Return what the centre has of the log of a try."""
        path = self._stack.central_home / "logs" / self.log_path(try_number)
        return path.read_text() if path.exists() else ""

    def edge_log(self, worker: str, try_number: int = 1) -> Path:
        """Return a worker's file for the log of a try."""
        return self._stack.worker_home(worker) / "logs" / self.log_path(try_number)

    def assert_undisturbed(self, timeout_s: float = 60.0) -> None:
        """Release it, and assert that it was one process and one try from its beginning to its success."""
        self.release()
        assert self._stack.wait_run(self.dag_id, self.run_id, timeout_s=timeout_s) == "success"
        assert self.instance()["try_number"] == 1
        self.assert_one_final_event()
        assert self.trace("pids") == [f"{self.pid} {self.supervisor_pid}"]
        assert self.trace("pids", try_number=2) == []

    def assert_one_final_event(self) -> None:
        """Assert that the scheduler has had one final event for each try, neither none nor two."""
        tries = {(-1, number) for number in range(1, self.instance()["try_number"] + 1)}
        assert_one_final_event(self._stack, self.run_id, TASK, tries)

    def assert_tries_did_not_overlap(self) -> None:
        """Assert that the first try's code did nothing any more when that of the second began."""
        first, second = (self.trace("beats", try_number=number) for number in (1, 2))
        assert float(first[-1]) < float(second[0])
        assert is_gone(self.pid)


def is_gone(pid: int) -> bool:
    """Tell whether a process has ended, buried or not."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Watch:
    """What a part writes from now on."""

    def __init__(self, stack: Stack, part: str) -> None:
        self._stack = stack
        self._part = part
        self._start = len(stack.log_of(part))
        self.began = time.monotonic()

    def lines(self, word: str) -> list[str]:
        """Return the new lines with a word in them."""
        return [line for line in self._stack.log_of(self._part)[self._start :].splitlines() if word in line]

    def await_line(self, word: str, *, count: int = 1, timeout_s: float = 60.0) -> float:
        """Wait until there are that many lines with a word in them; return the seconds since the watch began."""
        what = f"{count} x {word!r} from {self._part}"
        self._stack.wait_until(lambda: len(self.lines(word)) >= count, what, timeout_s=timeout_s)
        return time.monotonic() - self.began
