"""How late a printed line is where people read it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from deploy.quickstart.stack import Stack
from tests.support.edge_logs_command import edge_logs_command
from tests.support.run_checks import log_path

DAG: Final = "bench_live_lines"
_NOW: Final = re.compile(rb"now (\d+\.\d+)")
#: Seconds between two looks at the central file.
_POLL_S: Final = 0.002
#: Seconds after the task's end in which its last lines must have come.
_LAST_LINES_S: Final = 15.0
_LINES: Final = 50
#: Lines that edge-logs, which takes seconds to start on a busy machine, surely sees as they come.
_LAST_LINES: Final = 20
#: The two kinds of reader.
FILE: Final = "central file"
EDGE_LOGS: Final = "edge-logs -f"


def ages(chunks: Iterable[tuple[float, bytes]]) -> Iterator[float]:
    """Yield how old each printed time is when its line is complete.

    :param chunks: when a piece of the output was read (Unix time), and the piece.
    """
    unfinished = b""
    for read_at, chunk in chunks:
        *lines, unfinished = (unfinished + chunk).split(b"\n")
        for line in lines:
            if found := _NOW.search(line):
                yield read_at - float(found[1])


def measure(stack: Stack, *, with_edge_logs: bool, wait_run: Callable[[str, str], object]) -> dict[str, list[float]]:
    """Run a talkative task; return for each kind of reader how many seconds late each line came."""
    run_id = stack.trigger(DAG)
    instance = {"dag_id": DAG, "dag_run_id": run_id, "task_id": "talk", "map_index": -1}
    file = stack.central_home / "logs" / log_path(instance, 1)
    over = threading.Event()
    delays: dict[str, list[float]] = {FILE: []}
    with contextlib.ExitStack() as readers:
        readers.enter_context(_recording(lambda: _follow(file, over), delays[FILE]))
        if with_edge_logs:
            tail = readers.enter_context(_tail(stack, run_id))
            delays[EDGE_LOGS] = []
            readers.enter_context(_recording(lambda: iter(tail.readline, b""), delays[EDGE_LOGS]))
        readers.callback(over.set)
        wait_run(DAG, run_id)
        deadline = time.monotonic() + _LAST_LINES_S
        while len(delays[FILE]) < _LINES and time.monotonic() < deadline:
            time.sleep(0.1)
    if with_edge_logs:
        # What was printed before it had started is not what is measured.
        del delays[EDGE_LOGS][:-_LAST_LINES]
    if len(delays[FILE]) < _LINES:
        raise RuntimeError(f"{_LINES - len(delays[FILE])} lines of {run_id} never came to the centre")
    return delays


@contextmanager
def _tail(stack: Stack, run_id: str) -> Iterator[IO[bytes]]:
    command = edge_logs_command(stack, DAG, "--run-id", run_id, "-f", "--output", "raw")
    environment = stack.environment(stack.directory)
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tail:
        if tail.stdout is None:
            raise RuntimeError("edge-logs has no output")
        try:
            yield tail.stdout
        finally:
            # It ends with the run; when that has failed to end, it would never.
            tail.kill()


@contextmanager
def _recording(chunks: Callable[[], Iterator[bytes]], delays: list[float]) -> Iterator[None]:
    """Note in a thread how old each printed time is when it is read."""

    thread = threading.Thread(target=lambda: _record(chunks(), delays), name="reader", daemon=True)
    thread.start()
    yield
    # After a failure nobody waits: what it reads ends soon.
    thread.join(2 * _LAST_LINES_S)


def _record(chunks: Iterator[bytes], delays: list[float]) -> None:
    delays.extend(ages((time.time(), chunk) for chunk in chunks))


def _follow(file: Path, over: threading.Event) -> Iterator[bytes]:
    """Yield what is added to a file, two milliseconds later at most."""
    position = 0
    while not over.wait(_POLL_S):
        if file.exists() and file.stat().st_size > position:
            with file.open("rb") as stream:
                stream.seek(position)
                data = stream.read()
            position += len(data)
            yield data
