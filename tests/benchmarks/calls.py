"""How long a job waits for its start and its end while another one makes a large call, or gets a large answer.

A real bridge and a real worker, each a process of its own, on a link of 1 Mbit/s. This program speaks for the
supervisor of one job, which makes calls of 20 MB on the worker's unix socket; beside them, jobs that do nothing run
one after the other, and small calls are made. An HTTP server stands for Airflow's api-server.
"""

from __future__ import annotations

import argparse
import http.server
import os
import platform
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx
from rich.console import Console
from rich.table import Table

from edge_mqtt.worker.ipc.api_contract import BASE_URL
from edge_mqtt.worker.supervisor.api_transport import WorkerTransport
from tests.benchmarks.figures import percentile
from tests.benchmarks.log_neighbour import SLOW_BYTES_PER_S, SLOW_DELAY_S, Beside, run_jobs
from tests.benchmarks.logs import LogSite
from tests.benchmarks.relay import HEADERS, secret_of_the_job

#: Bytes that nothing makes smaller.
LARGE: Final = os.urandom(20_000_000)


class _ApiServer(http.server.BaseHTTPRequestHandler):
    """Takes whatever it is given, and gives out the large answer."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with much or with little."""
        self._answer(LARGE if self.path.endswith("large") else b"{}")

    def do_POST(self) -> None:
        """Take it."""
        self.rfile.read(int(self.headers["content-length"]))
        self._answer(b"{}")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@dataclass
class Figures:
    """What jobs and small calls waited for beside one load."""

    jobs: Beside
    calls_s: list[float] = field(default_factory=list)
    #: Seconds that each large call took that was through in time.
    large_s: list[float] = field(default_factory=list)


class Bench:
    """The site, with a job whose supervisor this program speaks for."""

    def __init__(self, folder: Path) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _ApiServer)
        threading.Thread(target=self._server.serve_forever, name="api-server", daemon=True).start()
        url = f"http://127.0.0.1:{self._server.server_port}/execution/"
        self.site = LogSite(folder, bridge_options=("--execution-api-url", url))
        self.link = self.site.site.links["worker"]
        self._hold = folder / "hold"
        (self._job,) = self.site.site.submit(1, hold=self._hold)
        self.site.site.wait(lambda: bool(self.site.site.runs()[0]), "the start of the job")
        state = folder / "machine" / "state"
        self._socket = next(state.glob("*.sock"))
        self._headers = HEADERS | {"authorization": f"Bearer {secret_of_the_job(state / 'spool.db')}"}

    def _client(self) -> httpx.Client:
        return httpx.Client(
            base_url=BASE_URL, transport=WorkerTransport(self._socket), headers=self._headers, trust_env=False
        )

    def measure(self, load: str, jobs: int) -> Figures:
        """Run jobs and make small calls beside a load: "nothing", "call" or "answer"."""
        figures = Figures(Beside("1 Mbit/s, 100 ms", load))
        self.link.delay_s, self.link.bytes_per_s = SLOW_DELAY_S, SLOW_BYTES_PER_S
        done = threading.Event()
        threads = [threading.Thread(target=self._make_small_calls, args=(figures, done))]
        if load != "nothing":
            threads.append(threading.Thread(target=self._make_large_calls, args=(load, figures, done)))
        for thread in threads:
            thread.start()
        if load != "nothing":
            before = self.link.bytes_up + self.link.bytes_down
            while self.link.bytes_up + self.link.bytes_down < before + 500_000:
                time.sleep(0.01)
        run_jobs(self.site, figures.jobs, jobs)
        done.set()
        # The rest of it may travel fast.
        self.link.delay_s, self.link.bytes_per_s = 0.0, None
        for thread in threads:
            thread.join()
        return figures

    def _make_small_calls(self, figures: Figures, done: threading.Event) -> None:
        with self._client() as client:
            while not done.is_set():
                began = time.monotonic()
                client.get("variables/small").raise_for_status()
                if not done.is_set():
                    figures.calls_s.append(time.monotonic() - began)
                done.wait(0.1)

    def _make_large_calls(self, load: str, figures: Figures, done: threading.Event) -> None:
        with self._client() as client:
            while not done.is_set():
                began = time.monotonic()
                if load == "answer":
                    client.get("variables/large").raise_for_status()
                else:
                    client.post("xcoms/dag/run/task/large", content=LARGE).raise_for_status()
                if not done.is_set():
                    figures.large_s.append(time.monotonic() - began)

    def close(self) -> None:
        """End everything."""
        self._hold.touch()
        self.site.site.wait_ended([self._job])
        self.site.close()
        self._server.shutdown()


def print_table(console: Console, results: Sequence[Figures]) -> None:
    """Print what was measured."""
    table = Table(title="A job that does nothing, and a small call, beside calls of 20 MB, ms")
    names = (
        "beside",
        "jobs",
        "started: median",
        "max",
        "finished: median",
        "max",
        "small calls",
        "median",
        "p95",
        "max",
    )
    for name in names:
        table.add_column(name, justify="right")
    for result in results:
        row = [result.jobs.load, str(len(result.jobs.started_s))]
        for values in (result.jobs.started_s, result.jobs.finished_s):
            row += [f"{percentile(values, share) * 1000:.0f}" for share in (0.5, 1.0)]
        row.append(str(len(result.calls_s)))
        row += [
            f"{percentile(result.calls_s, share) * 1000:.0f}" if result.calls_s else "-" for share in (0.5, 0.95, 1)
        ]
        table.add_row(*row)
    console.print(table)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=30, help="beside each load (default: %(default)s)")
    arguments = parser.parse_args()
    console = Console(width=160)
    console.print(f"{platform.platform()}, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        bench = Bench(Path(folder))
        try:
            bench.measure("nothing", 2)  # warms everything up
            results = [bench.measure(load, arguments.jobs) for load in ("nothing", "call", "answer")]
        finally:
            bench.close()
    print_table(console, results)


if __name__ == "__main__":
    main()
