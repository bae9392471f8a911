"""A real bridge, real workers and the executor's link, each behind a link of its own that can be made bad.

No Airflow: the jobs are callbacks, which ask the bridge and nobody else whether they may start.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from edge_mqtt.broker_bridge.protocol.ids import JobId
from edge_mqtt.broker_bridge.protocol.messages import JobFinished, JobSpec, Outcome, WorkloadType
from edge_mqtt.broker_bridge.protocol.topics import Topics
from edge_mqtt.certs.identity import Identity, Role
from edge_mqtt.certs.store import Store
from edge_mqtt.executor.bridge_client import BridgeClient, BridgeClientTiming
from edge_mqtt.executor.connect import prepare_connection
from edge_mqtt.executor.settings import load_settings
from tests.support.bad_link import BadLink
from tests.support.fake_airflow_conf import FakeAirflowConf

#: Seconds that anything may take on a busy machine.
PATIENCE_S = 60.0
#: Long enough for a busy machine to answer a ping within half of it.
KEEP_ALIVE_S = 4
NAME = "lab-1"
QUEUE = "default"
DAG_FILE = """
import time
from pathlib import Path

def numbered(number, marks, hold=None, **_context):
    with open(marks, "a") as file:
        file.write(f"{number}\\n")
    for line in range(50):
        print(f"job {number} line {line}")
    while hold and not Path(hold).exists():
        time.sleep(0.05)
    print(f"job {number} ends")
"""


class WorkerProcess:
    """A running edge-worker that remembers what it says."""

    def __init__(self, home: Path, state: Path, *arguments: str) -> None:
        (home / "dags").mkdir(parents=True, exist_ok=True)
        (home / "dags" / "lab.py").write_text(DAG_FILE)
        self.logs = home / "logs"
        self.lines: list[str] = []
        self._told = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_mqtt.worker", "--state-dir", str(state), *arguments],
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(home),
                "AIRFLOW_HOME": str(home),
                "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
                "AIRFLOW__EDGE_MQTT__KEEP_ALIVE": str(KEEP_ALIVE_S),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reading = threading.Thread(target=self._read, name="edge-worker.stderr")
        self._reading.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._told:
                self.lines.append(line)
                self._told.notify_all()

    def said(self, text: str) -> int:
        """Return how many lines have ``text``."""
        return sum(text in line for line in self.lines)

    def wait_line(self, text: str, count: int = 1) -> str:
        """Wait for the ``count``-th line with ``text``."""
        with self._told:
            assert self._told.wait_for(lambda: self.said(text) >= count, PATIENCE_S), self.lines[-20:]
        return next(line for line in self.lines if text in line)

    def end(self) -> int:
        """Stop it if it runs; return its exit code."""
        for _ in range(2):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(PATIENCE_S)
        self._reading.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


class BadLinkSite:
    """Bridge, executor and worker; ``links`` are the executor's and the worker's."""

    def __init__(self, folder: Path, *, offline_grace_s: float = 900.0, bridge_options: Iterable[str] = ()) -> None:
        self.folder = folder
        self._bridge_options = bridge_options
        self._offline_grace_s = offline_grace_s
        self.store = Store(folder / "certs")
        now = datetime.now(UTC)
        self.store.create(hosts=["localhost"], force=False, now=now)
        self._executor = Identity(Role.EXECUTOR, "main")
        for identity in (self._executor, Identity(Role.WORKER, NAME)):
            self.store.issue(identity, force=False, now=now)
        self._port = _free_port()
        self._bridge = self._start_bridge()
        self.links = {"executor": BadLink(self._port), "worker": BadLink(self._port)}
        self._workers: list[WorkerProcess] = []
        self.marks = folder / "marks"
        self.marks.touch()
        self.ends: Counter[JobId] = Counter()
        self.outcomes: dict[JobId, JobFinished] = {}
        self._numbers = iter(range(1_000_000))
        self.link = self._open_link()

    def _start_bridge(self) -> subprocess.Popen[bytes]:
        home = self.folder / "centre"
        with (self.folder / "bridge.log").open("wb") as output:
            return subprocess.Popen(
                [
                    *(sys.executable, "-m", "edge_mqtt.broker_bridge"),
                    *("--host", "127.0.0.1", "--port", str(self._port), "--health-port", str(_free_port())),
                    *("--certs", str(self.store.folder(Identity(Role.BRIDGE, "bridge")))),
                    *("--presence-interval", "1", "--kill-grace", "1", "--log-folder", str(home / "logs")),
                    *("--offline-grace", str(self._offline_grace_s)),
                    *self._bridge_options,
                ],
                env={
                    "PATH": os.environ["PATH"],
                    "HOME": str(home),
                    "AIRFLOW_HOME": str(home),
                    "AIRFLOW__API_AUTH__JWT_SECRET": "a" * 64,
                },
                stdout=subprocess.DEVNULL,
                stderr=output,
            )

    def _open_link(self) -> BridgeClient:
        conf = FakeAirflowConf(
            bridge_url=f"wss://localhost:{self.links['executor'].port}/mqtt",
            executor_certs=str(self.store.folder(self._executor)),
            keep_alive=str(KEEP_ALIVE_S),
        )
        settings = load_settings(conf, shared=conf)
        timing = BridgeClientTiming(resend_s=1.0, resend_at_most_s=2.0)
        link = BridgeClient(lambda: prepare_connection(settings, incarnation="one"), topics=Topics(), timing=timing)
        link.start()
        return link

    @property
    def bridge_log(self) -> str:
        """What the bridge has said."""
        return (self.folder / "bridge.log").read_text()

    @property
    def bridge_pid(self) -> int:
        """The bridge's process."""
        return self._bridge.pid

    @property
    def bridge_url(self) -> str:
        """The bridge's address, past every bad link."""
        return f"wss://localhost:{self._port}/mqtt"

    def start_worker(self, machine: str, *, direct: bool = False, concurrency: int = 4) -> WorkerProcess:
        """Start the worker on a machine with files of its own.

        :param direct: past the bad link.
        """
        port = self._port if direct else self.links["worker"].port
        home = self.folder / machine
        worker = WorkerProcess(
            home,
            home / "state",
            *("--bridge", f"wss://localhost:{port}/mqtt"),
            *("--certs", str(self.store.folder(Identity(Role.WORKER, NAME)))),
            *("--queues", QUEUE, "--concurrency", str(concurrency)),
        )
        self._workers.append(worker)
        return worker

    # ---------------------------------------------------------------- jobs

    def submit(self, count: int, *, hold: Path | None = None) -> list[JobId]:
        """Hand over jobs, each with a number of its own."""
        return [self._submit(next(self._numbers), hold) for _ in range(count)]

    def _submit(self, number: int, hold: Path | None) -> JobId:
        job_id = JobId(str(uuid.UUID(int=number)))
        kwargs = {"number": number, "marks": str(self.marks), "hold": str(hold) if hold else None}
        workload = {
            "type": "ExecuteCallback",
            "callback": {
                "id": job_id,
                "fetch_method": "import_path",
                "data": {"path": "lab.numbered", "kwargs": {**kwargs, "context": {}}},
            },
            "bundle_info": {"name": "dags-folder", "version": None},
            "dag_rel_path": "lab.py",
        }
        job = JobSpec(
            job_id=job_id, type=WorkloadType.CALLBACK, queue=QUEUE, log_path=log_path(job_id), workload=workload
        )
        self.link.submit(job, "token")
        return job_id

    def look(self) -> None:
        """Take in what the bridge tells the executor, as Airflow would."""
        for item in self.link.read_news():
            if isinstance(item, JobFinished):
                # The same end may be told again before its acknowledgement has crossed; another one may not.
                self.ends[item.job_id] += not _same_end(item, self.outcomes.get(item.job_id))
                self.outcomes[item.job_id] = item
                self.link.acknowledge(item.job_id)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for ``condition``, taking in news."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"{what} did not happen: {self.bridge_log[-2000:]}"
            self.look()
            time.sleep(0.02)

    def wait_ended(self, jobs: Iterable[JobId]) -> None:
        """Wait for the jobs' final events."""
        wanted = set(jobs)
        self.wait(lambda: wanted <= self.outcomes.keys(), f"the end of {wanted}")

    def runs(self) -> Counter[int]:
        """Return how often the user code of each number has run."""
        return Counter(int(line) for line in self.marks.read_text().split())

    def expect_exactly_once(self, jobs: list[JobId], worker: WorkerProcess) -> None:
        """Every job ran once, ended once with success, and its log is at the centre byte by byte."""
        self.wait_ended(jobs)
        self.wait(lambda: self.link.flush(timeout_s=1.0), "the last acknowledgement")
        assert {self.outcomes[job].outcome for job in jobs} == {Outcome.SUCCESS}
        assert {self.ends[job] for job in jobs} == {1}
        runs = self.runs()
        assert {runs[uuid.UUID(job).int] for job in jobs} == {1}
        for job in jobs:
            ours = (worker.logs / log_path(job)).read_bytes()
            assert b" ends" in ours
            central = self.folder / "centre" / "logs" / log_path(job)
            self.wait(lambda at=central, wanted=ours: at.exists() and at.read_bytes() == wanted, f"the log of {job}")  # type: ignore[misc]  # defaults

    def close(self) -> None:
        """End everything."""
        for link in self.links.values():
            link.restore()
        for worker in self._workers:
            worker.end()
        self.link.stop()
        self._bridge.kill()
        self._bridge.wait()
        for link in self.links.values():
            link.close()


def log_path(job_id: JobId) -> str:
    """Return where a job's log is, below any log folder."""
    return f"executor_callbacks/{job_id}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _same_end(one: JobFinished, other: JobFinished | None) -> bool:
    return other is not None and (one.outcome, one.detail, one.worker) == (other.outcome, other.detail, other.worker)
