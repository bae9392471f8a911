"""The demonstration: put the stack up, run a Dag on the edge, tail it, show what came of it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from rich.console import Console

from deploy.quickstart.directory_lock import stop_left_over
from deploy.quickstart.display import Progress, show_addresses, show_problem, show_task_instances
from deploy.quickstart.errors import DirectoryInUse, StackError
from deploy.quickstart.ports import BRIDGE_PORT, UI_PORT, Ports
from deploy.quickstart.services import SCRIPTS, WorkerSpec
from deploy.quickstart.stack import Stack

DAG_ID = "edge_demo"
DAGS = Path(__file__).parent / "dags"
WORKER = WorkerSpec(name="edge-1", queues=("default", "press"), concurrency=16)

#: What the demo Dag reads on the edge.
VARIABLES = {"press_plan": json.dumps({"parts": 10, "width_mm": 42.0})}
CONNECTIONS = [
    {
        "connection_id": "press_plc",
        "conn_type": "generic",
        "host": "10.20.0.17",
        "port": 502,
        "login": "inspector",
        "password": "not-a-real-one",
    }
]

#: Seconds that the demo Dag may take.
RUN_TIMEOUT_S = 300.0
#: Seconds that edge-logs has, after the run's end, to print what is left.
TAIL_TIMEOUT_S = 20.0


def prepare_airflow(stack: Stack) -> None:
    """Wait for the demo Dag and make the Variable and the Connection that it reads."""
    stack.wait_for_dag(DAG_ID)
    for key, value in VARIABLES.items():
        stack.rest("POST", "/variables", {"key": key, "value": value})
    for connection in CONNECTIONS:
        stack.rest("POST", "/connections", connection)


def exit_code(problem: StackError) -> int:
    """Return the exit code: 2 when it is for the user to set right, else 1."""
    return 2 if isinstance(problem, DirectoryInUse) else 1


class Demo:
    """One demonstration."""

    def __init__(self, directory: Path, console: Console) -> None:
        """Prepare it; the ports are chosen here.

        :raises DirectoryInUse: a stack runs in ``directory``.
        """
        self._console = console
        stop_left_over(directory)
        self._ports = Ports.preferring()
        self._stack = Stack(directory, dags=DAGS, workers=[WORKER], ports=self._ports)
        self._tail: subprocess.Popen[bytes] | None = None

    def run(self, *, once: bool) -> int:
        """Do it all; return the exit code: 0 when the run succeeded.

        :param once: end after the run, not at Ctrl-C.
        """
        succeeded = False
        try:
            self._start()
            succeeded = self._run_dag()
            if not once:
                self._stay()
        except StackError as error:
            show_problem(error)
            return exit_code(error)
        except KeyboardInterrupt:
            if not succeeded:
                return 130
        finally:
            self._stop()
        return 0 if succeeded else 1

    def _start(self) -> None:
        self._tell_ports()
        began = time.monotonic()
        progress = Progress(self._console)
        with progress.shown():
            self._stack.start(progress.update)
        prepare_airflow(self._stack)
        self._say(f"everything is up after {time.monotonic() - began:.1f} s")
        self._show_addresses()

    def _tell_ports(self) -> None:
        for what, wanted, got in (
            ("the bridge", BRIDGE_PORT, self._ports.bridge),
            ("the UI", UI_PORT, self._ports.ui),
        ):
            if wanted != got:
                self._say(f"port {wanted} is not to be had (in use, or not ours to open): {what} takes {got}")

    def _run_dag(self) -> bool:
        run_id = self._stack.trigger(DAG_ID)
        self._say(f"{DAG_ID} runs; edge-logs shows what it says:")
        began = time.monotonic()
        self._start_tail(run_id)
        state = self._await_run(run_id)
        self._end_tail()
        self._say(f"{DAG_ID} ended after {time.monotonic() - began:.0f} s: {state}")
        show_task_instances(self._console, self._stack.task_instances(DAG_ID, run_id))
        self._show_addresses()
        return state == "success"

    def _await_run(self, run_id: str) -> str:
        state = ""

        def ended() -> bool:
            nonlocal state
            self._stack.check_alive()
            state = self._stack.run_state(DAG_ID, run_id)
            return state in {"success", "failed"}

        self._stack.wait_until(ended, "the demo run to end", timeout_s=RUN_TIMEOUT_S, poll_s=0.5)
        return state

    def _start_tail(self, run_id: str) -> None:
        argv = [
            *(str(SCRIPTS / "edge-logs"), DAG_ID, "--run-id", run_id, "--follow"),
            *("--bridge", self._stack.bridge_url, "--certs", str(self._stack.operator_certs)),
        ]
        environment = self._stack.environment(self._stack.operator_certs)
        # It writes to our terminal, and may know which one that is.
        environment |= {name: os.environ[name] for name in ("TERM", "COLUMNS", "NO_COLOR") if name in os.environ}
        self._console.file.flush()
        self._tail = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    def _end_tail(self) -> None:
        if self._tail is None:
            return
        try:
            code = self._tail.wait(TAIL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._tail.terminate()
            self._say(f"edge-logs did not see the run's end within {TAIL_TIMEOUT_S:g} s")
            return
        if code not in (0, 1):
            self._say(f"edge-logs ended with exit code {code}")

    def _stay(self) -> None:
        self._say("Ctrl-C stops everything")
        while True:
            self._stack.check_alive()
            time.sleep(1.0)

    def _stop(self) -> None:
        try:
            with self._console.status("stopping"):
                self._stack.stop()
        except KeyboardInterrupt:
            self._stack.stop(at_once=True)
        if self._tail is not None:
            self._tail.wait()
        if not self._stack.services:
            return
        left = self._stack.left_over()
        self._say(f"could not be stopped: {[process.pid for process in left]}" if left else "everything is stopped")

    def _show_addresses(self) -> None:
        show_addresses(
            self._console,
            url=self._stack.url,
            username=self._stack.username,
            password=self._stack.password,
            bridge_url=self._stack.bridge_url,
        )

    def _say(self, line: str) -> None:
        self._console.print(f"[dim]·[/] {line}", highlight=False, soft_wrap=True)
