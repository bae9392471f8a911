"""A worker with its bridge in memory, as a program of its own that a test can kill."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edge_mqtt.broker_bridge.protocol.messages import Assign, Cancel, Message

ROOT = Path(__file__).parents[2]
WAIT_S = 60.0
#: Those of the running test.
PROGRAMS: list[subprocess.Popen[str]] = []


class WorkerProgram:
    """A worker and its bridge in a process of their own.

    :param by: a command that runs another one, as another user, for example.
    """

    def __init__(self, state: Path, *how: str, by: Sequence[str] = (), **settings: object) -> None:
        command = [*by, sys.executable, "-m", "tests.support.worker_lab", str(state), json.dumps(settings), *how]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        PROGRAMS.append(self.process)
        self._seen: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                if line.startswith("{"):
                    self._seen.append(json.loads(line))
                self._news.notify_all()

    def until(self, condition: Callable[[list[dict[str, Any]]], Any]) -> Any:
        """Wait until what the bridge has seen meets ``condition``."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self._seen), WAIT_S), "it did not happen in time"
            return condition(self._seen)

    def ready(self) -> None:
        """Wait for the first presence."""
        self.until(lambda seen: any(message["kind"] == "presence" for message in seen))

    def assign(self, assign: Assign) -> None:
        """Give it a job."""
        self._say(assign)

    def cancel(self, assign: Assign) -> None:
        """Have it stop a job."""
        self._say(Cancel(job_id=assign.job.job_id, fence=assign.fence, reason="marked failed"))

    def _say(self, message: Message) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(message.model_dump_json() + "\n")
        self.process.stdin.flush()

    def log(self, job_id: str) -> str:
        """Return what has arrived of a log on this bridge, which began with nothing."""
        chunks = [m for m in self._seen if m["kind"] == "log_chunk" and m["job_id"] == job_id]
        return "".join(chunk["body"] for chunk in sorted(chunks, key=lambda chunk: int(chunk["offset"])))

    def has_logged(self, job_id: str, words: str) -> None:
        """Wait until a log says something."""
        self.until(lambda _: words in self.log(job_id))

    def result(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's result."""
        found: dict[str, Any] = self.until(
            lambda seen: next((m for m in seen if m["kind"] == "finished" and m["job_id"] == job_id), None)
        )
        return found

    def end(self, signum: signal.Signals) -> int:
        """Send a signal and wait for the end."""
        self.process.send_signal(signum)
        code = self.process.wait(WAIT_S)
        self._reader.join(WAIT_S)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        return code
